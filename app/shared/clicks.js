// Tells Python what was clicked in a figure. Streamlit tells only of what can be selected, which a heatmap's cells cannot.
export default function ({ parentElement, setTriggerValue }) {
  const place = (parentElement.host ?? parentElement).closest('[class*="st-key-panels"]');
  const hear = ({ points }) => {
    const clicked = points.find((point) => ![undefined, null, ""].includes(point.customdata));
    if (clicked) setTriggerValue("clicked", clicked.customdata);
  };
  const listen = () => {
    const figure = place.querySelector(".js-plotly-plot");
    if (!figure?.on) return;
    if (!figure.hearsClicks) figure.on("plotly_click", (event) => figure.hearsClicks(event));
    figure.hearsClicks = hear;
  };
  listen();
  parentElement.drawn?.disconnect();
  parentElement.drawn = new MutationObserver(listen); // plotly comes late, and a figure that changes is another
  parentElement.drawn.observe(place, { childList: true, subtree: true });
  return () => parentElement.drawn.disconnect();
}

// Saves the figure above as it is now, zoom included, on the colour of the page: its own background lets that through.
export default function ({ parentElement, data }) {
  const here = parentElement.host ?? parentElement;
  const above = (figure) => here.compareDocumentPosition(figure) & Node.DOCUMENT_POSITION_PRECEDING;
  for (const button of parentElement.querySelectorAll("button")) button.onclick = () => {
    const figure = [...document.querySelectorAll(".js-plotly-plot")].filter(above).at(-1);
    const { width, height } = figure.getBoundingClientRect();
    const page = getComputedStyle(document.querySelector(".stApp")).backgroundColor;
    const drawn = { data: figure.data, layout: { ...figure.layout, paper_bgcolor: page } };
    window.Plotly.downloadImage(drawn, { format: button.value, filename: data.name, width, height, scale: 2 });
  };
}

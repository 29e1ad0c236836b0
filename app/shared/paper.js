// Lets figures, which are drawn as wide as the screen has room, shrink to the width of a sheet while the page is printed.
export default function () {
  const figures = () => document.querySelectorAll(".js-plotly-plot .svg-container");
  window.onbeforeprint = () => figures().forEach((figure) => {
    const [width, height] = ["width", "height"].map((side) => figure.querySelector(".main-svg").getAttribute(side));
    figure.style.aspectRatio = width / height;
    figure.style.setProperty("--drawn", `${width}px`);
    for (const svg of figure.querySelectorAll(".main-svg")) svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  });
  window.onafterprint = () => figures().forEach((figure) => {
    figure.style.aspectRatio = "";
    for (const svg of figure.querySelectorAll(".main-svg")) svg.removeAttribute("viewBox");
  });
}

"use strict";
// Draws every figure of the page, light or dark as the page is, and before printing light and as wide as the paper.
(function () {
  const PAPER = 680; // pixels
  const read = (element) => JSON.parse(element.textContent);
  const config = read(document.getElementById("config"));
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const figures = Array.from(document.querySelectorAll(".plot"), (plot) => ({
    plot: plot,
    given: read(document.getElementById(plot.dataset.figure)),
  }));

  function changed(given, dark) {
    const figure = structuredClone(given.figure);
    for (const [path, value] of dark ? given.dark : []) {
      const last = path[path.length - 1];
      path.slice(0, -1).reduce((place, key) => place[key], figure)[last] = value;
    }
    return figure;
  }

  function draw(one, dark, width) {
    const { data, layout } = changed(one.given, dark);
    Plotly.react(one.plot, data, { ...layout, width: width, autosize: width === undefined }, config);
    // The plot is told by its label, and its buttons by theirs; loose numbers of axes would only be in the way.
    one.plot.querySelectorAll(".main-svg").forEach((drawing) => drawing.setAttribute("aria-hidden", "true"));
  }

  const drawAll = (width) => figures.forEach((one) => draw(one, prefersDark.matches && !width, width));

  // One after another, so that the page can be read and scrolled meanwhile.
  function drawFrom(place) {
    if (place === figures.length) {
      document.documentElement.dataset.drawn = String(place);
      return;
    }
    draw(figures[place], prefersDark.matches);
    setTimeout(drawFrom, 0, place + 1);
  }

  drawFrom(0);
  prefersDark.addEventListener("change", () => drawAll());
  const unfold = (open) => document.querySelectorAll(".setup").forEach((one) => (one.open = open));
  window.addEventListener("beforeprint", () => (unfold(true), drawAll(PAPER)));
  window.addEventListener("afterprint", () => (unfold(false), drawAll()));
})();

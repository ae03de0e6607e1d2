// Draws the book's figures with its own copy of plotly, in the colours of the theme that the reader has chosen.
(() => {
  "use strict";
  const root = document.documentElement;
  const figures = () => Array.from(document.querySelectorAll(".lodo-figure"));

  function loadPlotly() {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${root.dataset.content_root || "./"}_static/plotly.min.js`;
      script.onload = resolve;
      script.onerror = () => reject(new Error("plotly.min.js could not be loaded"));
      document.head.append(script);
    });
  }

  function colours() {
    const style = getComputedStyle(root);
    const value = (name) => style.getPropertyValue(name).trim();
    return { text: value("--lodo-ink"), grid: value("--lodo-grid"), surface: value("--lodo-surface") };
  }

  function themed(layout, narrow) {
    const { text, grid, surface } = colours();
    const result = structuredClone(layout);
    Object.assign(result, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true });
    delete result.width;
    result.font = { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 13, ...result.font, color: text };
    for (const axis of Object.keys(result).filter((key) => /^[xy]axis\d*$/.test(key)).concat(["xaxis", "yaxis"])) {
      result[axis] = {
        automargin: true, ticks: "outside", tickcolor: grid, exponentformat: "power", ...result[axis],
        gridcolor: grid, zerolinecolor: grid, linecolor: grid,
      };
    }
    result.hoverlabel = { bgcolor: surface, bordercolor: grid, font: { color: text }, ...result.hoverlabel };
    result.legend = narrow
      ? { ...result.legend, orientation: "h", x: 0, xanchor: "left", y: -0.25, yanchor: "top" }
      : { ...result.legend };
    result.margin = { l: narrow ? 8 : 16, r: narrow ? 8 : 16, t: result.title ? 48 : 16, b: 8, ...result.margin };
    return result;
  }

  async function draw() {
    for (const figure of figures()) {
      const plot = figure.querySelector(".lodo-plot");
      const { data, layout, frames = [] } = JSON.parse(figure.querySelector("script").textContent);
      const narrow = plot.clientWidth < 520;
      const config = {
        responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover",
        modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      };
      await Plotly.react(plot, { data, layout: themed(layout, narrow), frames, config });
      figure.classList.add("drawn");
    }
  }

  async function start() {
    if (!figures().length) return;
    await loadPlotly();
    await draw();
    let theme = root.dataset.theme;
    // The theme's script sets other attributes too; only a change of the theme needs new colours.
    new MutationObserver(() => {
      if (root.dataset.theme !== theme) {
        theme = root.dataset.theme;
        draw();
      }
    }).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();

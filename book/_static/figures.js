// Draws the book's figures in place of their static pictures when they scroll into view, with the book's own copy of plotly
// and in the colours of the theme that the reader has chosen.
(() => {
  "use strict";
  const root = document.documentElement;
  const narrowBelow = 520; // pixels of a figure
  const config = {
    responsive: true, displaylogo: false, showSendToCloud: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };

  let loading;
  function loadPlotly() {
    loading ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${root.dataset.content_root || "./"}_static/plotly.min.js`;
      script.onload = resolve;
      script.onerror = () => reject(new Error("plotly.min.js could not be loaded"));
      document.head.append(script);
    });
    return loading;
  }

  function colours() {
    const style = getComputedStyle(root);
    const value = (name) => style.getPropertyValue(name).trim();
    return { text: value("--lodo-ink"), grid: value("--lodo-grid"), surface: value("--lodo-surface") };
  }

  const axesOf = (layout) => Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));

  // A text on two lines where a phone has no room for it on one.
  function broken(text) {
    if (!text || text.length < 44) return text;
    const spaces = [...text.matchAll(/ /g)].map((match) => match.index);
    const middle = spaces.sort((a, b) => Math.abs(a - text.length / 2) - Math.abs(b - text.length / 2))[0];
    return middle === undefined ? text : `${text.slice(0, middle)}<br>${text.slice(middle + 1)}`;
  }

  function themed(layout, narrow) {
    const { text, grid, surface } = colours();
    const result = structuredClone(layout);
    Object.assign(result, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true });
    delete result.width;
    result.font = { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 13, ...result.font, color: text };
    for (const name of axesOf(result)) {
      const axis = result[name];
      result[name] = { automargin: true, ...axis, gridcolor: grid, zeroline: false, linecolor: grid };
      if (narrow && axis.title) result[name].title = { ...axis.title, text: broken(axis.title.text) };
      // Every other tick, where they would run into each other.
      if (narrow && name.startsWith("x") && axis.tickvals?.length > 4) {
        result[name].tickvals = axis.tickvals.filter((_, place) => place % 2 === 0);
        result[name].ticktext = axis.ticktext.filter((_, place) => place % 2 === 0);
      }
    }
    result.hoverlabel = { bgcolor: surface, bordercolor: grid, font: { color: text }, ...result.hoverlabel };
    if (narrow) {
      result.margin = { l: 8, r: 8, t: 28, b: 56 };
      // No room for names beside the panel: a legend instead.
      if (result.annotations?.some((one) => one.name === "end")) {
        result.annotations = result.annotations.filter((one) => one.name !== "end");
        Object.assign(result, { showlegend: true, legend: {} });
      }
      for (const title of result.annotations ?? []) if (title.xref === "paper") title.font = { ...title.font, size: 9 };
      // As far below the panels, in their heights, as ticks and a title reach down.
      const below = -56 / (result.height - result.margin.t - 140);
      if (result.legend) {
        result.legend = { ...result.legend, orientation: "h", x: 0, xanchor: "left", y: below, yanchor: "top" };
      }
    }
    return result;
  }

  // On a phone a scale of colours lies over the panels, not beside them.
  function laidFlat(trace) {
    if (!trace.colorbar) return trace;
    const flat = { orientation: "h", x: 0.5, y: 1.02, yanchor: "bottom", thickness: 10, len: 1 };
    return { ...trace, colorbar: { ...trace.colorbar, ...flat, title: { ...trace.colorbar.title, side: "top" } } };
  }

  // Ticks are set for the whole picture: within a part of it plotly finds its own.
  function freeTicks(plot, layout, change) {
    for (const name of axesOf(layout)) {
      if (!layout[name].tickvals) continue;
      const zoomed = `${name}.range[0]` in change || `${name}.range` in change;
      const whole = JSON.stringify(plot.layout[name].range) === JSON.stringify(layout[name].range);
      const mode = zoomed && !whole ? "auto" : whole ? "array" : null;
      if (mode && plot.layout[name].tickmode !== mode) Plotly.relayout(plot, { [`${name}.tickmode`]: mode });
    }
  }

  // A slider through the steps of paths or through heat maps, and a button that moves it.
  function addSteps(figure) {
    const stops = figure.dataset.stops.split(",").map(Number);
    const controls = document.createElement("div");
    controls.className = "lodo-steps";
    controls.innerHTML = '<button type="button">Play</button><input type="range" min="0" step="1"><output></output>';
    const [play, slider, output] = controls.children;
    slider.max = String(stops.length - 1);
    slider.value = "0";
    slider.setAttribute("aria-label", "step");
    let timer = 0;
    const pause = () => {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
    };
    const show = () => {
      const stop = stops[slider.value];
      output.textContent = `after step ${stop} of ${stops.at(-1)}`;
      slider.setAttribute("aria-valuetext", output.textContent);
      if (figure.plot) moveTo(figure, Number(slider.value), stop);
    };
    const next = () => {
      slider.value = String(Number(slider.value) + 1);
      show();
      if (slider.value === slider.max) pause();
    };
    slider.addEventListener("input", () => {
      pause();
      show();
    });
    play.addEventListener("click", () => {
      if (timer) return pause();
      if (slider.value === slider.max) slider.value = "0";
      play.textContent = "Pause";
      show();
      timer = setInterval(next, figure.dataset.moments ? 500 : 150);
    });
    figure.querySelector(".lodo-stage").after(controls);
    figure.showStep = show;
    show();
  }

  function moveTo(figure, place, stop) {
    if (figure.dataset.moments) {
      const moments = figure.dataset.moments.split(",").map(Number);
      return Plotly.restyle(figure.plot, { visible: moments.map((_, other) => other === place) }, moments);
    }
    const paths = figure.dataset.paths.split(",").map(Number);
    const upTo = (axis) => paths.map((path) => figure.specification.data[path][axis].slice(0, stop + 1));
    return Plotly.restyle(figure.plot, { x: upTo("x"), y: upTo("y") }, paths);
  }

  async function draw(figure) {
    figure.specification ??= JSON.parse(figure.querySelector("script").textContent);
    const { data, layout } = figure.specification;
    const stage = figure.querySelector(".lodo-stage");
    let plot = figure.plot;
    if (!plot) {
      plot = document.createElement("div");
      plot.className = "lodo-plot";
      plot.setAttribute("role", "group");
      plot.setAttribute("aria-label", "Interactive figure");
      stage.append(plot);
    }
    const narrow = stage.clientWidth < narrowBelow;
    const entries = narrow && (layout.legend || layout.annotations) ? data.filter((trace) => trace.name && trace.showlegend !== false).length : 0;
    const height = layout.height + 12 * entries;
    plot.style.height = `${height}px`;
    // plotly keeps and changes what it is given.
    const shown = { ...themed(layout, narrow), height };
    // Over a heat map plotly measures the distance to the title from the axis, not from the ticks' labels.
    if (narrow && data.some((trace) => trace.colorbar)) {
      for (const name of axesOf(shown)) if (name.startsWith("x") && shown[name].title) shown[name].title.standoff = 36;
    }
    const traces = structuredClone(narrow ? data.map(laidFlat).map((one) => ({ ...one, name: broken(one.name) })) : data);
    await Plotly.react(plot, traces, shown, { ...config, displayModeBar: narrow ? false : "hover" });
    if (!figure.plot) {
      figure.plot = plot;
      plot.on("plotly_relayout", (change) => freeTicks(plot, layout, change));
    }
    figure.showStep?.();
    figure.classList.add("drawn");
  }

  function start() {
    const figures = Array.from(document.querySelectorAll(".lodo-figure"));
    if (!figures.length) return;
    figures.filter((figure) => figure.dataset.stops).forEach(addSteps);
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        observer.unobserve(entry.target);
        loadPlotly().then(() => draw(entry.target.closest(".lodo-figure"))).catch((error) => console.error(error));
      }
    }, { rootMargin: "150px" });
    figures.forEach((figure) => observer.observe(figure.querySelector(".lodo-stage")));
    const again = () => figures.filter((figure) => figure.plot).forEach(draw);
    let theme = root.dataset.theme;
    // The theme's script sets other attributes too; only a change of the theme needs new colours.
    new MutationObserver(() => {
      if (root.dataset.theme !== theme) {
        theme = root.dataset.theme;
        again();
      }
    }).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
    matchMedia("(max-width: 576px)").addEventListener("change", again);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();

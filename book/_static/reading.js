// Tables that can be sorted; and what is wider than its box can be reached by the keyboard.
(() => {
  "use strict";

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const value = cell?.dataset.value;
    if (value === undefined) return cell?.textContent.trim() || null;
    return value === "" ? null : Number(value);
  };

  // What is empty comes last, whichever way the rest is sorted.
  function compare(a, b, direction) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return direction * (a - b);
    return direction * String(a).localeCompare(String(b), "en", { numeric: true });
  }

  function makeSortable(table) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
        const body = table.tBodies[0];
        body.append(...Array.from(body.rows).sort((a, b) => compare(valueOf(a, column), valueOf(b, column), direction)));
      });
    });
  }

  const boxes = ".lodo-table, .lodo-stage, div.math, mjx-container[display], .pst-scrollable-table-container, pre";

  function scrolls(box, whether) {
    if (whether) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
    box.classList.toggle("lodo-scrolls", whether);
  }

  function fit() {
    for (const formula of document.querySelectorAll(".bd-article span.math > mjx-container")) {
      formula.dataset.size ??= formula.style.fontSize; // MathJax's, which suits the font
      formula.style.fontSize = formula.dataset.size;
      const available = formula.closest("p, li, dd, dt, td, th, h1, h2, h3, div").clientWidth;
      const share = available / formula.getBoundingClientRect().width;
      // On a phone a formula may be a third smaller than the text; what is wider still scrolls.
      const size = Math.max(66, 0.98 * share * (parseFloat(formula.dataset.size) || 100));
      if (share < 1) formula.style.fontSize = `${size}%`;
      scrolls(formula.parentElement, formula.getBoundingClientRect().width > available + 1);
    }
    for (const box of document.querySelectorAll(boxes)) {
      const larger = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight + 1;
      scrolls(box, larger && /auto|scroll/.test(getComputedStyle(box).overflowX));
    }
  }

  async function start() {
    document.querySelectorAll(".lodo-table table").forEach(makeSortable);
    // The theme's box with the logo and the contents is no landmark.
    document.querySelector("#pst-primary-sidebar")?.setAttribute("role", "navigation");
    document.querySelector("#pst-primary-sidebar")?.setAttribute("aria-label", "The book");
    // Its triangles beside chapters with pages of their own have no words.
    for (const summary of document.querySelectorAll("#pst-primary-sidebar summary")) summary.ariaLabel = "Pages of this chapter";
    // Sphinx lists what has no description as a term alone, which is no list.
    for (const list of document.querySelectorAll("dl.py")) if (!list.querySelector(":scope > dd")) list.append(document.createElement("dd"));
    await window.MathJax?.startup?.promise;
    fit();
    let due = 0;
    const fitSoon = () => {
      clearTimeout(due);
      due = setTimeout(fit, 150);
    };
    // The text's width changes for some time after the window's, as the sidebars slide. What was hidden has no width.
    let width = 0;
    new ResizeObserver(([text]) => {
      if (text.contentRect.width !== width) fitSoon();
      width = text.contentRect.width;
    }).observe(document.querySelector(".bd-article") ?? document.body);
    addEventListener("resize", fitSoon);
    document.addEventListener("toggle", fitSoon, true);
    document.documentElement.dataset.lodoFitted = "yes";
  }

  addEventListener("load", start);
})();

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

  const scrolled = ".lodo-table, .lodo-stage, div.math, mjx-container, .pst-scrollable-table-container, pre";

  function fit() {
    for (const formula of document.querySelectorAll(".bd-article mjx-container:not([display])")) {
      formula.style.fontSize = "";
      const share = formula.parentElement.clientWidth / formula.scrollWidth;
      // A formula on a phone may be a third smaller than the text; what is wider still scrolls.
      if (share < 1 && formula.parentElement.clientWidth) formula.style.fontSize = `${Math.max(66, Math.floor(98 * share))}%`;
    }
    for (const box of document.querySelectorAll(scrolled)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== "visible";
      if (scrolls) box.tabIndex = 0;
      else if (box.tabIndex === 0) box.removeAttribute("tabindex");
      box.classList.toggle("lodo-scrolls", scrolls);
    }
  }

  async function start() {
    document.querySelectorAll(".lodo-table table").forEach(makeSortable);
    await window.MathJax?.startup?.promise;
    fit();
    let due = 0;
    addEventListener("resize", () => {
      clearTimeout(due);
      due = setTimeout(fit, 150);
    });
    document.documentElement.dataset.lodoFitted = "yes";
  }

  addEventListener("load", start);
})();

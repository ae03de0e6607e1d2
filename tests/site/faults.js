// What lies wrong in a page as it is shown, by what it is called: functions that list it.
({
  "wider than the window": () => {
    const over = document.documentElement.scrollWidth - window.innerWidth;
    return over > 0 ? [over] : [];
  },

  "table wider than its box, without a cue": () => [...document.querySelectorAll('.bd-article table')].filter((t) => {
    const box = t.parentElement;
    if (t.getBoundingClientRect().width <= box.clientWidth + 1) return false;
    return !(box.classList.contains('lodo-scrolls') && box.tabIndex === 0);
  }).map((t) => t.textContent.slice(0, 60)),

  "first two columns not seen": () => [...document.querySelectorAll('.lodo-table tbody tr:first-child')].filter((row) => {
    const cell = row.cells[1]?.getBoundingClientRect();
    return cell && cell.right > row.closest('.lodo-table').getBoundingClientRect().right + 1;
  }).map((row) => row.textContent.slice(0, 60)),

  "heading broken inside a word": () => [...document.querySelectorAll('.bd-article :is(h1, h2, h3)')].flatMap((heading) => {
    const walker = document.createTreeWalker(heading, NodeFilter.SHOW_TEXT), found = [];
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      for (const match of node.data.matchAll(/[\p{L}\p{N}_]+/gu)) {
        const range = document.createRange();
        range.setStart(node, match.index);
        range.setEnd(node, match.index + match[0].length);
        if (new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size > 1) found.push(match[0]);
      }
    }
    return found;
  }),

  "formula cut off": () => [...document.querySelectorAll('.bd-article mjx-container')].filter((formula) => {
    let box = formula; // what cuts it off
    while (box && getComputedStyle(box).overflowX === 'visible') box = box.parentElement;
    const seen = formula.getBoundingClientRect(), edge = (box ?? document.body).getBoundingClientRect();
    if (box && box !== document.body && box.scrollWidth > box.clientWidth + 1) return box.tabIndex !== 0;
    return seen.right > Math.min(edge.right, innerWidth) + 1;
  }).map((formula) => formula.textContent.slice(0, 60)),

  "text of a figure cut off": () => [...document.querySelectorAll('.lodo-plot')].flatMap((plot) => {
    const box = plot.getBoundingClientRect();
    return [...plot.querySelectorAll('.main-svg text')].filter((text) => {
      if (text.closest('.trace, .heatmaplayer, .textpoint, .modebar') || !text.textContent) return false;
      const r = text.getBoundingClientRect();
      const outside = r.left < box.left - 2 || r.right > box.right + 2 || r.top < box.top - 2 || r.bottom > box.bottom + 2;
      return r.width && outside;
    }).map((text) => text.textContent);
  }),

  "title beside the ticks' labels": () => [...document.querySelectorAll('.lodo-plot')].flatMap((plot) => {
    const labels = [...plot.querySelectorAll('[class^="xaxislayer"] text')].map((text) => text.getBoundingClientRect());
    return [...plot.querySelectorAll('[class^="g-x"][class$="title"] text')].filter((title) => {
      const r = title.getBoundingClientRect();
      return labels.some((label) => label.width && label.bottom > r.top + 1 && label.top < r.bottom - 1);
    }).map((title) => title.textContent);
  }),

  "mode bar on the legend or a title": () => [...document.querySelectorAll('.lodo-plot')].flatMap((plot) => {
    const bar = plot.querySelector('.modebar')?.getBoundingClientRect();
    if (!bar?.width) return [];
    return [...plot.querySelectorAll('.legend, .annotation, .gtitle, .cbtitle')].filter((other) => {
      const r = other.getBoundingClientRect();
      return r.width && r.left < bar.right && r.right > bar.left && r.top < bar.bottom && r.bottom > bar.top;
    }).map((other) => other.textContent);
  }),
})

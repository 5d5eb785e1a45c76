"use strict";
// Tables sorted by a click on a heading, and two pictures with one edge between them. `root` is where to look.
const compareRuns = (root) => {
  for (const table of root.querySelectorAll("table[data-sortable]")) {
    const heads = [...table.tHead.rows[0].cells];
    const value = (row, column) => {
      const cell = row.cells[column];
      const text = cell.dataset.value ?? cell.textContent.trim();
      return text === "" || text === "–" ? null : text;
    };
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const rows = [...table.tBodies[0].rows];
      const known = rows.map((row) => value(row, column)).filter((v) => v !== null);
      const numeric = known.length > 0 && known.every((v) => Number.isFinite(Number(v)));
      // Figures are asked for from the top first, names from A.
      const first = numeric ? "descending" : "ascending";
      const other = numeric ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      rows.sort((a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (numeric ? x - y : x.localeCompare(y, undefined, { numeric: true }));
      });
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      table.tBodies[0].append(...rows);
    }));
  }
  for (const swipe of root.querySelectorAll("[data-swipe]")) {
    const pictures = [...swipe.querySelectorAll(".cmp-grid img")];
    const [left, right] = swipe.querySelectorAll("select");
    const frame = swipe.querySelector(".cmp-frame");
    const [under, over] = frame.querySelectorAll("img");
    const edge = frame.querySelector("input");
    const show = () => {
      for (const [shown, chosen] of [[over, left], [under, right]]) {
        const picture = pictures[chosen.value];
        shown.src = picture.src;
        shown.alt = picture.alt;
      }
      edge.setAttribute("aria-valuetext", `${edge.value} % ${left.selectedOptions[0].text}, the rest ${right.selectedOptions[0].text}`);
    };
    const move = () => { frame.style.setProperty("--at", `${edge.value}%`); show(); };
    left.selectedIndex = 0;
    right.selectedIndex = Math.min(1, pictures.length - 1);
    left.addEventListener("change", show);
    right.addEventListener("change", show);
    edge.addEventListener("input", move);
    move();
    swipe.querySelector(".cmp-live").hidden = false;
  }
};

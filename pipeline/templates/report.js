"use strict";
// Sorting is an extra: without a script the tiles stay in the order in which they were written.
const choice = document.getElementById("sort");
choice.closest("label").hidden = false;
choice.addEventListener("change", () => {
  const [name, direction] = JSON.parse(choice.value);
  for (const grid of document.querySelectorAll(".grid")) {
    const value = (tile) => (name === null ? Number(tile.dataset.place) : JSON.parse(tile.dataset.scores)[name]);
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null); // rows without this score come last
      return direction * (x - y);
    };
    grid.append(...[...grid.children].sort(order));
  }
});

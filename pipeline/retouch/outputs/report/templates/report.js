"use strict";
// Without JavaScript the page shows every row, in page order.
const byId = (id) => document.getElementById(id);
const grid = document.querySelector(".grid");
const tiles = [...document.querySelectorAll(".tile")];
const [view, sort, find, shown, large] = ["view", "sort", "find", "shown", "large"].map(byId);
const isSeen = (tile) => tile.offsetParent !== null;

function refresh() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const tile of tiles) {
    const inView = !view || view.value === "" || tile.dataset.views.split(" ").includes(view.value);
    const text = words.length ? tile.textContent.toLowerCase() : "";
    tile.hidden = !inView || !words.every((word) => text.includes(word));
  }
  shown.textContent = `${tiles.filter(isSeen).length} of ${tiles.length} rows on this page are shown`;
}

function order() {
  const [name, direction] = JSON.parse(sort.value);
  const value = (tile) => (name === null ? Number(tile.dataset.place) : JSON.parse(tile.dataset.scores)[name] ?? null);
  const before = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null); // rows without this score come last
    return direction * (x - y);
  };
  grid.append(...[...tiles].sort(before));
}

// A link to a hidden row shows all rows.
function follow() {
  const target = location.hash.startsWith("#tile-") && byId(location.hash.slice(1));
  if (!target || isSeen(target)) return;
  if (view) view.value = "";
  find.value = "";
  const all = byId("show-all");
  if (all) all.checked = true;
  refresh();
  target.scrollIntoView();
}

let open = null; // the enlarged picture
const image = new Image();
const file = Object.assign(document.createElement("a"), { textContent: "open file" });
const pictures = (tile) => [...tile.querySelectorAll("figure img")];

function enlarge(picture) {
  open = picture;
  const caption = large.querySelector("figcaption");
  const tile = picture.closest(".tile");
  const own = picture.closest("figure").querySelector("figcaption").textContent.trim();
  const link = picture.closest("a");
  image.src = picture.src;
  image.alt = picture.alt;
  image.className = picture.className;
  caption.textContent = [own, tile.querySelector("h3 span").textContent, tile.querySelector(".prompt")?.textContent]
    .filter(Boolean)
    .join(" \u00b7 ");
  file.hidden = !link;
  if (link) file.href = link.href;
  large.querySelector("figure").prepend(image);
  large.querySelector("p").append(file);
  if (!large.open) large.showModal();
}

function go(way) {
  const tile = open.closest(".tile");
  const own = pictures(tile);
  const at = own.indexOf(open);
  if (way === "left" || way === "right") {
    enlarge(own[(at + (way === "left" ? own.length - 1 : 1)) % own.length]);
    return;
  }
  const rows = [...grid.children].filter((row) => isSeen(row) && pictures(row).length);
  const next = pictures(rows[(rows.indexOf(tile) + (way === "up" ? rows.length - 1 : 1)) % rows.length]);
  enlarge(next[Math.min(at, next.length - 1)]);
}

for (const choice of [view, sort, find]) if (choice) choice.closest("label").hidden = false;
for (const choice of [view, find]) choice?.addEventListener("input", refresh);
for (const radio of document.querySelectorAll("[name=show]")) radio.addEventListener("change", refresh);
sort.addEventListener("input", order);
addEventListener("hashchange", follow);
for (const picture of grid.querySelectorAll("figure img")) {
  if (!picture.closest("a")) Object.assign(picture, { tabIndex: 0, role: "button" });
}
grid.addEventListener("click", (event) => {
  const picture = event.target.closest("figure")?.querySelector("img");
  if (!picture || event.ctrlKey || event.metaKey || !event.target.closest("img, a")) return;
  event.preventDefault();
  enlarge(picture);
});
grid.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.target.matches("img")) return;
  event.preventDefault(); // else the same key press would reach the button that the dialog focuses
  enlarge(event.target);
});
large.addEventListener("click", (event) => {
  const way = event.target.dataset.go;
  if (way) go(way);
  else if (event.target === large) large.close();
});
large.addEventListener("keydown", (event) => {
  const way = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" }[event.key];
  if (!way) return;
  event.preventDefault();
  go(way);
});
for (const button of document.querySelectorAll(".copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    getSelection().selectAllChildren(code); // if the page may not write to the clipboard
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      button.textContent = "selected";
    }
  });
}
if (view && view.options.length > 1) view.selectedIndex = 1;
refresh();
follow();

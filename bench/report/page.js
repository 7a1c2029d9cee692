"use strict";
// What a reader can do with the page: hide models, sort tables, choose light or dark. Without it, all is shown, unsorted.

document.querySelector(".controls").hidden = false;

const models = [...document.querySelectorAll("[data-model]")];
function showModels() {
  const off = new Set(models.filter((button) => button.getAttribute("aria-pressed") === "false").map((button) => button.dataset.model));
  for (const shown of document.querySelectorAll("[data-series]"))
    shown.classList.toggle("off", shown.dataset.series.split(" ").some((name) => off.has(name)));
  const names = models.filter((button) => off.has(button.dataset.model)).map((button) => button.textContent);
  document.getElementById("hidden-models").textContent = names.length ? `Hidden, with all that speaks of them: ${names.join(", ")}.` : "";
}
for (const button of models)
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    showModels();
  });

function order(row, column) {
  const cell = row.cells[column];
  if ("order" in cell.dataset) return Number(cell.dataset.order.replace("inf", "Infinity"));
  return cell.className === "n" ? Number(cell.textContent.replaceAll(",", "")) : cell.textContent;
}
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}
for (const table of document.querySelectorAll("table"))
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].sort((a, b) => (up ? 1 : -1) * compare(order(a, column), order(b, column)));
      table.tBodies[0].append(...rows);
    });
  });

const themes = { "": "system", light: "light", dark: "dark" };
const theme = document.getElementById("theme");
theme.addEventListener("click", () => {
  const names = Object.keys(themes);
  const next = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  theme.textContent = `Theme: ${themes[next]}`;
});

const contents = document.querySelector("nav details");
const wide = matchMedia("(min-width: 64rem)");
const fold = () => { contents.open = wide.matches; };
wide.addEventListener("change", fold);
fold();

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("main details:not([open])")];
  for (const details of closed) details.open = true;
});
addEventListener("afterprint", () => { for (const details of closed) details.open = false; });

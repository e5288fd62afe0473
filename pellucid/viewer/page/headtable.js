// The heads as a table: for screen readers, and to copy into a spreadsheet.

import { fill, h } from "./dom.js";
import { plainName } from "./choices.js";
import { isWanted, kindOf, numberNames, numberOf, numberTitle, shownNumber, sortedHeads } from "./headmodel.js";
import { kindBadge } from "./kinds.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./headmodel.js").Head} Head
 * @typedef {import("./headmodel.js").HeadsChoice} HeadsChoice
 * @typedef {import("./client.js").Numbers} Numbers
 */

const tableAtFirst = 500; // rows that are made at once

/**
 * @param {Page} page
 * @param {(head: Head, several: boolean) => void} open
 */
export function headTable(page, open) {
  const element = h("div", { class: "pl-head-table" });
  return {
    element,
    /**
     * @param {Head[]} heads
     * @param {HeadsChoice} choice
     * @param {Numbers | null} numbers
     */
    update(heads, choice, numbers) {
      const rows = sortedHeads(heads, choice, numbers).filter((head) => isWanted(head, choice, numbers));
      const names = numberNames(numbers);
      const body = h("tbody", {}, rows.slice(0, tableAtFirst).map((head) => tableRow(head, names, choice, numbers, open)));
      const rest = rows.slice(tableAtFirst);
      const more = h("button", { type: "button", onclick: () => (body.append(...rest.map((head) => tableRow(head, names, choice, numbers, open))), more.remove()) }, `Show the other ${rest.length}`);
      const table = h("table", {}, h("caption", {}, `${rows.length} heads`), h("thead", {}, tableHeadings(page, names, choice, numbers)), body);
      fill(element, tableCopy(page, rows, names, choice, numbers), table, rest.length ? more : null);
    },
  };
}

/**
 * @param {Page} page
 * @param {string[]} names
 * @param {HeadsChoice} choice
 * @param {Numbers | null} numbers
 */
function tableHeadings(page, names, choice, numbers) {
  const plain = ["layer", "name", "role", "head", "kind", "because"].map((name) => h("th", { scope: "col", class: ["layer", "head"].includes(name) ? "" : "pl-wide" }, name));
  const sortable = names.map((name) => {
    const here = choice.sort === name;
    const press = () => page.state.set({ sort: here && !choice.ascending ? `-${name}` : name });
    const order = here ? (choice.ascending ? "ascending" : "descending") : "none";
    const title = numbers ? numberTitle(numbers, name, choice.sink) : name;
    return h("th", { scope: "col", "aria-sort": order }, h("button", { type: "button", title, onclick: press }, name.replaceAll("_", " "), here ? (choice.ascending ? " ↑" : " ↓") : ""));
  });
  return h("tr", {}, plain, sortable);
}

/**
 * @param {Head} head
 * @param {string[]} names
 * @param {HeadsChoice} choice
 * @param {Numbers | null} numbers
 * @param {(head: Head, several: boolean) => void} open
 */
function tableRow(head, names, choice, numbers, open) {
  const { kind, because } = kindOf(numbers, head, choice.sink);
  const opens = h("button", { type: "button", class: "pl-link", "aria-label": `open layer ${head.layer.number}, head ${head.number}`, onclick: () => open(head, false) }, String(head.number));
  return h(
    "tr",
    {},
    h("td", {}, String(head.layer.number)),
    h("td", { class: "pl-wide" }, plainName(head.layer.name, 60)),
    h("td", { class: "pl-wide" }, head.layer.role),
    h("td", {}, opens),
    h("td", { class: "pl-wide" }, kindBadge(kind), ` ${kind}`),
    h("td", { class: "pl-wide" }, because || (head.layer.map ? "" : "no map was read")),
    names.map((name) => h("td", {}, shownNumber(numberOf(numbers, head, name, choice.sink)))),
  );
}

/**
 * @param {Page} page
 * @param {Head[]} rows
 * @param {string[]} names
 * @param {HeadsChoice} choice
 * @param {Numbers | null} numbers
 */
function tableCopy(page, rows, names, choice, numbers) {
  const said = h("span", { role: "status" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(tableText(rows, names, choice, numbers));
      said.textContent = `${rows.length} heads copied, a tab between columns`;
    } catch {
      said.textContent = "the browser does not allow it: select the table and copy it";
    }
  };
  return h("div", { class: "pl-row" }, h("button", { type: "button", onclick: copy }, "Copy the table"), said);
}

/**
 * The table with a tab between columns and a line a head, numbers in full.
 * @param {Head[]} rows
 * @param {string[]} names
 * @param {HeadsChoice} choice
 * @param {Numbers | null} numbers
 * @returns {string}
 */
export function tableText(rows, names, choice, numbers) {
  const suffix = (/** @type {string} */ name) => (choice.sink === "without" && numbers?.paired.includes(name) ? `${name}_without_sink` : name);
  const lines = [["layer", "name", "role", "head", "kind", "because", ...names.map(suffix)]];
  for (const head of rows) {
    const { kind, because } = kindOf(numbers, head, choice.sink);
    const values = names.map((name) => String(numberOf(numbers, head, name, choice.sink) ?? ""));
    lines.push([String(head.layer.number), plainName(head.layer.name, 1000), head.layer.role, String(head.number), kind, because, ...values]);
  }
  return lines.map((line) => line.join("\t")).join("\n");
}

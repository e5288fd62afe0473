// The card beside the pointer: which tokens, which weight, and its rank.

import { strongest } from "./attending.js";
import { placeInWords } from "./axes.js";
import { fill, h } from "./dom.js";
import { lineOf } from "./mapaside.js";
import { stripWords } from "./strips.js";
import { cellPlaces, cellWeight, isPair, weightInFull } from "./words.js";

/**
 * @typedef {import("./panel.js").MapPanel} MapPanel
 * @typedef {import("./source.js").Cell} Cell
 */

const cardKeys = 3; // of a query alone, where there is no room for a list beside the map

/**
 * What is at one place of some panels, in lines.
 * @param {{panel: MapPanel, cell: Cell | null}[]} parts
 * @returns {string[]} none where nothing is known
 */
export function cardLines(parts) {
  /** @type {string[]} */
  const lines = [];
  let places = "";
  for (const { panel, cell } of parts) {
    if (!cell || !panel.chosen || !panel.source) continue;
    const where = cellPlaces(cell, { queries: panel.queries.text, keys: panel.keys.text }, panel.chosen.layer);
    if (where.join() !== places) lines.push(...where);
    places = where.join();
    const { layer, place } = panel.chosen;
    const row = isPair(cell) && layer.exact && !Number.isNaN(cell.log) ? panel.rows.row(panel.source.owner, place, cell.q0) : null;
    const whose = parts.length > 1 ? `${panel.label}: ` : "";
    lines.push(`${whose}${cellWeight(cell, place.pool, row)}`, ...cardReadings(panel, isPair(cell) ? cell.q0 : NaN, isPair(cell) ? cell.k0 : NaN).map((words) => whose + words));
  }
  const [a, b] = parts.map(({ cell }) => (cell ? Math.exp(cell.log) : NaN));
  if (parts.length > 1 && !Number.isNaN(a - b)) lines.push(`A − B: ${signed(a - b)}`);
  return lines;
}

/**
 * What the strips along the axes say of a query and of a key; NaN for none.
 * @param {MapPanel} panel
 * @param {number} q
 * @param {number} k
 * @returns {string[]}
 */
function cardReadings(panel, q, k) {
  const of = (/** @type {string} */ what, /** @type {import("./pane.js").Side} */ { strips }, /** @type {number} */ place) => {
    const said = strips.map((strip) => stripWords(strip, place)).filter(Boolean);
    return said.length ? [`the ${what}: ${said.join(", ")}`] : [];
  };
  return [...of("query", panel.queries, q), ...of("key", panel.keys, k)];
}

/**
 * What is at a query alone, or at a key alone, in lines.
 * @param {MapPanel} panel
 * @param {import("./rows.js").Line} line
 * @param {boolean} lists whether its largest weights are told, too
 * @returns {string[]}
 */
export function lineLines(panel, line, lists) {
  if (!panel.chosen) return [];
  const { index } = line;
  const axes = { queries: panel.queries.text, keys: panel.keys.text };
  const [q, k] = line.axis === "queries" ? [index, NaN] : [NaN, index];
  const lines = [...cellPlaces({ q0: q, q1: q + 1, k0: k, k1: k + 1 }, axes, panel.chosen.layer), ...cardReadings(panel, q, k)];
  const logs = lists ? lineOf(panel, line) : null;
  if (!logs) return lines;
  const others = line.axis === "queries" ? axes.keys : axes.queries;
  const most = strongest(logs, cardKeys).map((place) => `${placeInWords(others, place)}: ${weightInFull(Math.exp(logs[place]))}`);
  const whose = panel.label === "map" ? "" : `${panel.label}: `; // of two that are compared
  return [...lines, `${whose}${line.axis === "queries" ? "reads most" : "is read most by"}`, ...most];
}

/** @param {number} difference @returns {string} */
export function signed(difference) {
  return difference < 0 ? `−${weightInFull(-difference)}` : `${difference > 0 ? "+" : ""}${weightInFull(difference)}`;
}

export function hoverCard() {
  const element = h("div", { class: "pl-map-card", hidden: true });
  let shown = "";
  return {
    element,
    /**
     * @param {string[]} lines
     * @param {{x: number, y: number}} at in pixels of what the card lies in
     * @param {{width: number, height: number}} within
     */
    show(lines, at, within) {
      element.hidden = !lines.length;
      if (!lines.length) return;
      const text = lines.join("\n");
      if (text !== shown) fill(element, lines.map((line) => h("div", {}, h("bdi", {}, line))));
      shown = text;
      const { offsetWidth: width, offsetHeight: height } = element;
      const left = at.x + 16 + width > within.width ? at.x - 16 - width : at.x + 16;
      const top = at.y + 16 + height > within.height ? at.y - 16 - height : at.y + 16;
      element.style.transform = `translate(${Math.round(Math.max(4, left))}px, ${Math.round(Math.max(4, top))}px)`;
    },
  };
}

// The card beside the pointer: which tokens, which weight, and its rank.

import { fill, h } from "./dom.js";
import { cellPlaces, cellWeight, isPair, weightInFull } from "./words.js";

/**
 * @typedef {import("./panel.js").MapPanel} MapPanel
 * @typedef {import("./source.js").Cell} Cell
 */

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
    const where = cellPlaces(cell, { queries: panel.queries.text, keys: panel.keys.text });
    if (where.join() !== places) lines.push(...where);
    places = where.join();
    const { layer, place } = panel.chosen;
    const row = isPair(cell) && layer.exact && !Number.isNaN(cell.log) ? panel.rows.row(panel.source.owner, place, cell.q0) : null;
    lines.push(`${parts.length > 1 ? `${panel.label}: ` : ""}${cellWeight(cell, place.pool, row)}`);
  }
  const [a, b] = parts.map(({ cell }) => (cell ? Math.exp(cell.log) : NaN));
  if (parts.length > 1 && !Number.isNaN(a - b)) lines.push(`A − B: ${signed(a - b)}`);
  return lines;
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

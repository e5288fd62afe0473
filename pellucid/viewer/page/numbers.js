// Weights written into cells that are large enough to hold them.

import { inDigits, placeOn } from "./colour.js";
import { inkOn } from "./ink.js";
import { visiblePart } from "./axes.js";
import { textWidth } from "./marks.js";

/**
 * @typedef {import("./marks.js").Mark} Mark
 * @typedef {(q: number, k: number) => {text: string, colour: string} | null} CellText
 */

const numbersLeast = { width: 46, height: 16 };
const numbersSize = 11;

/**
 * The numbers of cells, each in the middle of what is visible of its cell, where that holds it.
 * @param {import("./viewport.js").Visible} visible
 * @param {import("./viewport.js").Pair} lengths
 * @param {import("./pane.js").PaneLayout} layout
 * @param {CellText} textOf
 * @returns {Mark[]}
 */
export function cellNumbers(visible, lengths, layout, textOf) {
  const down = { from: visible.q0, to: visible.q1, pixels: layout.height, length: lengths.q, start: layout.top, down: true };
  const along = { from: visible.k0, to: visible.k1, pixels: layout.width, length: lengths.k, start: layout.left, down: false };
  const wide = layout.width / (visible.k1 - visible.k0);
  const high = layout.height / (visible.q1 - visible.q0);
  if (wide < numbersLeast.width || high < numbersLeast.height) return [];
  /** @type {Mark[]} */
  const marks = [];
  for (let q = Math.max(0, Math.floor(visible.q0)); q < Math.min(lengths.q, visible.q1); q++) {
    const [top, bottom] = visiblePart(down, q);
    if (bottom - top < numbersLeast.height) continue;
    for (let k = Math.max(0, Math.floor(visible.k0)); k < Math.min(lengths.k, visible.k1); k++) {
      const [left, right] = visiblePart(along, k);
      const found = right - left > 12 ? textOf(q, k) : null;
      if (!found || textWidth(found.text, numbersSize) > right - left - 2) continue;
      marks.push({ ...found, x: (left + right) / 2, y: (top + bottom) / 2, anchor: "middle", size: numbersSize });
    }
  }
  return marks;
}

/**
 * A weight as it is written on its colour.
 * @param {number} log
 * @param {import("./colour.js").Scale} scale
 * @param {Uint8Array} table
 * @param {import("./palette.js").PageColours} palette
 * @returns {{text: string, colour: string}}
 */
export function weightOnColour(log, scale, table, palette) {
  if (!(log > -Infinity)) return { text: Number.isNaN(log) ? "–" : "0", colour: inkOn(Number.isNaN(log) ? palette.nothing : palette.zero) };
  return { text: inDigits(Math.exp(log)), colour: inkOn(colourAt(table, placeOn(log, scale))) };
}

/**
 * @param {Uint8Array} table
 * @param {number} at 0 to 1
 * @returns {number[]}
 */
export function colourAt(table, at) {
  const entry = Math.round(at * 255) * 4;
  return [table[entry], table[entry + 1], table[entry + 2]];
}

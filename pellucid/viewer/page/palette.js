// The page's colours as numbers, for what is drawn and not styled.

import { colourTable, divergingTable } from "./colour.js";

/**
 * @typedef {import("./axes.js").Palette & {zero: number[], nothing: number[]}} PageColours
 */

/** @type {Map<string, Uint8Array>} */
const paletteTables = new Map();

/**
 * @param {HTMLElement} root
 * @returns {PageColours}
 */
export function paletteOf(root) {
  const style = getComputedStyle(root);
  const of = (/** @type {string} */ name) => style.getPropertyValue(`--pl-${name}`).trim();
  const colours = { text: of("text"), faint: of("faint"), line: of("line"), accent: of("accent"), back: of("back"), panel: of("panel"), mark: of("mark") };
  return { ...colours, zero: paletteNumbers(of("zero")), nothing: paletteNumbers(of("nothing")) };
}

/**
 * @param {string} colour "#rrggbb"
 * @returns {number[]} red, green, blue, alpha
 */
function paletteNumbers(colour) {
  const number = parseInt(colour.slice(1), 16);
  return Number.isNaN(number) ? [128, 128, 128, 255] : [number >> 16, (number >> 8) & 255, number & 255, 255];
}

/**
 * A colour map's table, always the same object.
 * @param {string | undefined} name "diverging" or one of the maps
 * @param {boolean} [dark]
 * @returns {Uint8Array}
 */
export function tableOf(name = "viridis", dark = false) {
  const key = `${name} ${dark}`;
  let table = paletteTables.get(key);
  if (!table) paletteTables.set(key, (table = name === "diverging" ? divergingTable(dark) : colourTable(name)));
  return table;
}

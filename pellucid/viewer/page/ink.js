// Colours behind words: a weight of nothing is the page's own colour, and the words stay legible on every other.

import { colourTable, inDigits, placeOn } from "./colour.js";
import { fill, h } from "./dom.js";

/**
 * @typedef {import("./colour.js").Scale} Scale
 * @typedef {{back: string[], ink: string[]}} Ink 256 of each
 */

const inkPages = { light: [255, 255, 255], dark: [22, 24, 27] };

/** What tells several fixed tokens apart (Okabe and Ito), as red, green, blue. */
export const FIXED_COLOURS = [[230, 97, 0], [0, 114, 178], [0, 158, 115], [204, 121, 167], [160, 120, 0], [86, 180, 233]];

/** @type {Map<string, Ink>} */
const inkKept = new Map();

/**
 * The colours of a map turned so that a larger weight is further from the page's own colour, which is its beginning.
 * @param {string} name
 * @param {boolean} dark
 * @returns {Ink}
 */
export function inkOf(name, dark) {
  const key = `${name} ${dark}`;
  let ink = inkKept.get(key);
  if (!ink) inkKept.set(key, (ink = makeInk(colourTable(name), dark)));
  return ink;
}

/**
 * @param {Uint8Array} table
 * @param {boolean} dark
 * @returns {Ink}
 */
function makeInk(table, dark) {
  const page = dark ? inkPages.dark : inkPages.light;
  const rises = brightness([...table.slice(1020, 1023)]) > brightness([...table.slice(0, 3)]);
  /** @type {Ink} */
  const ink = { back: [], ink: [] };
  for (let i = 0; i < 256; i++) {
    const at = rises === dark ? i : 255 - i;
    const strength = Math.min(1, i / 80);
    const colour = [0, 1, 2].map((c) => Math.round(page[c] + (table[at * 4 + c] - page[c]) * strength));
    ink.back.push(`rgb(${colour.join(",")})`);
    ink.ink.push(inkOn(colour));
  }
  return ink;
}

/**
 * Black or white, whichever is easier to read on a colour: never under 4.5 to 1.
 * @param {number[]} colour
 * @returns {string}
 */
export function inkOn(colour) {
  return brightness(colour) > 0.179 ? "#000" : "#fff";
}

/**
 * The relative luminance of WCAG, 0 to 1.
 * @param {number[]} colour
 * @returns {number}
 */
export function brightness(colour) {
  const [r, g, b] = colour.map((value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/**
 * The entry of a table of 256 for a logarithm; -1 for a weight of 0 or one that is not known.
 * @param {number} log
 * @param {Scale} scale
 * @returns {number}
 */
export function inkPlace(log, scale) {
  return log > -Infinity ? Math.round(placeOn(log, scale) * 255) : -1;
}

/**
 * The bar that explains the colours.
 */
export function inkLegend() {
  const bar = h("canvas", { width: 256, height: 1, class: "pl-ink-bar" });
  const low = h("span");
  const high = h("span");
  const kind = h("span", { class: "pl-faint" });
  const element = h("div", { class: "pl-ink-legend", role: "img" }, low, bar, high, kind);
  return {
    element,
    /**
     * @param {Ink} ink
     * @param {Scale} scale
     */
    show(ink, scale) {
      const context = /** @type {CanvasRenderingContext2D} */ (bar.getContext("2d"));
      for (let i = 0; i < 256; i++) {
        context.fillStyle = ink.back[i];
        context.fillRect(i, 0, 1, 1);
      }
      const word = scale.kind === "sqrt" ? "square root" : scale.kind;
      fill(low, inDigits(scale.low));
      fill(high, inDigits(scale.high));
      fill(kind, `weight, ${word} scale`);
      element.setAttribute("aria-label", `colours of weights from ${inDigits(scale.low)} to ${inDigits(scale.high)}, ${word} scale`);
    },
  };
}

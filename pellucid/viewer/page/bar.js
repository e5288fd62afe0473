// The bar that says which colour is which weight, for the toolbar and for pictures.

import { inDigits, scaleFunction } from "./colour.js";
import { textWidth } from "./marks.js";

/**
 * @typedef {import("./marks.js").Mark} Mark
 * @typedef {import("./colour.js").Scale} Scale
 * @typedef {{text: string, at: number}} BarTick at: 0 to 1 along the bar
 */

/**
 * Round weights along a scale, the ends among them.
 * @param {Scale} scale
 * @returns {BarTick[]}
 */
export function barTicks(scale) {
  const of = scaleFunction(scale.kind);
  const [low, high] = [of(Math.log(scale.low)), of(Math.log(scale.high))];
  const at = (/** @type {number} */ weight) => (high > low ? (of(Math.log(weight)) - low) / (high - low) : 1);
  const ends = [scale.low, scale.high].map((weight) => ({ text: inDigits(weight), at: at(weight) }));
  const between = barRound(scale).map((weight) => ({ text: inDigits(weight), at: at(weight) }));
  return [ends[0], ends[1], ...between.filter((tick) => tick.at > 0.02 && tick.at < 0.98)];
}

/**
 * @param {Scale} scale
 * @returns {number[]}
 */
function barRound({ kind, low, high }) {
  const found = [];
  if (kind === "log") {
    for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high); power++) found.push(10 ** power);
    return found.length ? found : [Math.sqrt(low * high)];
  }
  const step = 10 ** Math.floor(Math.log10((high - low) / 2));
  const each = (high - low) / step > 5 ? step * 2 : step;
  for (let weight = Math.ceil(low / each) * each; weight <= high; weight += each) found.push(weight);
  return found;
}

/**
 * Ticks of differences: the largest either way, and none.
 * @param {number} largest
 * @param {boolean} rooted
 * @returns {BarTick[]}
 */
export function differenceTicks(largest, rooted) {
  const half = 0.5 * (rooted ? Math.sqrt(0.25) : 0.25);
  return [
    { text: `−${inDigits(largest)}`, at: 0 },
    { text: `+${inDigits(largest)}`, at: 1 },
    { text: "0", at: 0.5 },
    { text: `−${inDigits(largest / 4)}`, at: 0.5 - half },
    { text: `+${inDigits(largest / 4)}`, at: 0.5 + half },
  ];
}

/**
 * A bar with its ticks; labels that would touch one another are left out, the ends never.
 * @param {Uint8Array} table
 * @param {BarTick[]} ticks
 * @param {{x: number, y: number, width: number}} place
 * @param {import("./axes.js").Palette} palette
 * @returns {Mark[]}
 */
export function barMarks(table, ticks, { x, y, width }, palette) {
  /** @type {Mark[]} */
  const marks = [{ picture: barPicture(table), x, y, width, height: 12 }, { x, y, width, height: 12, stroke: palette.line }];
  /** @type {[number, number][]} */
  const taken = [];
  for (const { text, at } of ticks) {
    const half = textWidth(text, 11) / 2;
    const middle = Math.max(x + half, Math.min(x + width - half, x + at * width));
    if (taken.some(([from, to]) => middle + half + 5 > from && middle - half - 5 < to)) continue;
    taken.push([middle - half, middle + half]);
    marks.push({ points: [x + at * width, y + 12, x + at * width, y + 15], colour: palette.faint });
    marks.push({ text, x: middle, y: y + 22, anchor: "middle", size: 11, colour: palette.text });
  }
  return marks;
}

/** @type {WeakMap<Uint8Array, HTMLCanvasElement>} */
const barPictures = new WeakMap();

/** @param {Uint8Array} table @returns {HTMLCanvasElement} */
function barPicture(table) {
  let picture = barPictures.get(table);
  if (!picture) {
    picture = document.createElement("canvas");
    [picture.width, picture.height] = [256, 1];
    picture.getContext("2d")?.putImageData(new ImageData(new Uint8ClampedArray(table), 256, 1), 0, 0);
    barPictures.set(table, picture);
  }
  return picture;
}

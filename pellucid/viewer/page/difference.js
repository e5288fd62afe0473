// The difference of two maps, weight by weight, at every pixel that both have.

import { sampled } from "./source.js";

/**
 * @typedef {import("./viewport.js").Visible} Visible
 * @typedef {import("./viewport.js").Pair} Pair
 * @typedef {import("./source.js").TileSource} TileSource
 */

// Places that are compared in a frame, and in one of a map that moves.
export const DIFFERENCE_MOST = { still: 500000, moving: 80000 };

// Differences are drawn as logarithms between these, for a raster maps logarithms: -1 … 1, of the largest shown.
export const DIFFERENCE_SCALE = /** @type {import("./colour.js").Scale} */ ({ kind: "log", low: Math.exp(-1), high: Math.E });

/**
 * The part of a map b that lies where a part of a map a does: the same, or in proportion where lengths differ.
 * @param {Visible} visible
 * @param {Pair} from
 * @param {Pair} to
 * @returns {Visible}
 */
export function inProportion(visible, from, to) {
  const q = to.q / Math.max(from.q, 1);
  const k = to.k / Math.max(from.k, 1);
  return { q0: visible.q0 * q, q1: visible.q1 * q, k0: visible.k0 * k, k1: visible.k1 * k };
}

/**
 * @param {number} place
 * @param {number} from
 * @param {number} to
 * @returns {number} the place of another axis where this one is
 */
export function placeInProportion(place, from, to) {
  return from === to ? place : Math.min(to - 1, Math.floor(((place + 0.5) * to) / Math.max(from, 1)));
}

/**
 * a - b in weights over what is visible of a; NaN where one of them is not known.
 * @param {TileSource} a
 * @param {TileSource} b
 * @param {Visible} visible
 * @param {Pair} pixels
 * @param {number} [most] places that are compared
 * @returns {import("./raster.js").Grid & {largest: number}}
 */
export function differenceOf(a, b, visible, pixels, most = DIFFERENCE_MOST.still) {
  const part = { ...visible, q1: Math.min(visible.q1, a.lengths.q), k1: Math.min(visible.k1, a.lengths.k) };
  const shrink = Math.min(1, Math.sqrt(most / (pixels.q * pixels.k)));
  const size = (/** @type {number} */ seen, /** @type {number} */ whole, /** @type {number} */ all) =>
    Math.max(1, Math.round((seen / whole) * all * shrink));
  const rows = size(part.q1 - part.q0, visible.q1 - visible.q0, pixels.q);
  const columns = size(part.k1 - part.k0, visible.k1 - visible.k0, pixels.k);
  const [first, second] = [a, b].map((source) => {
    const seen = inProportion(visible, a.lengths, source.lengths);
    return sampled(source.grids(seen, pixels), inProportion(part, a.lengths, source.lengths), rows, columns);
  });
  let largest = 0;
  for (let i = 0; i < first.length; i++) {
    const difference = Math.exp(first[i]) - Math.exp(second[i]);
    first[i] = difference;
    if (Math.abs(difference) > largest) largest = Math.abs(difference);
  }
  const [qBin, kBin] = [(part.q1 - part.q0) / rows, (part.k1 - part.k0) / columns];
  return { logs: first, rows, columns, q0: part.q0, k0: part.k0, qBin, kBin, largest };
}

/**
 * Differences brought to -1 … 1 of the largest that is shown, in place.
 * @param {Float32Array} differences
 * @param {number} largest
 * @param {boolean} rooted by their square root, so that small ones are seen
 */
export function bringToOne(differences, largest, rooted) {
  for (let i = 0; i < differences.length; i++) {
    const part = differences[i] / (largest || 1);
    differences[i] = rooted ? Math.sign(part) * Math.sqrt(Math.abs(part)) : part;
  }
}

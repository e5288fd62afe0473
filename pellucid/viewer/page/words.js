// What is on a map in words: how exact it is, and what lies under the crosshair.

import { rankOf } from "./attending.js";
import { placeInWords } from "./axes.js";
import { namedAt, shownToken } from "./tokens.js";

/**
 * @typedef {import("./source.js").Cell} Cell
 * @typedef {import("./source.js").Known} Known
 * @typedef {import("./app.js").Chosen} Chosen
 * @typedef {import("./axes.js").AxisText} AxisText
 */

/**
 * The heads of a place, by the numbers that the model gives them.
 * @param {Chosen} chosen
 * @returns {string}
 */
export function mapHeads({ layer, heads, place }) {
  if (heads.length === 1) return `head ${layer.head_numbers[heads[0]]}`;
  const which = heads.length === layer.heads ? `all ${heads.length} heads` : `heads ${heads.map((head) => layer.head_numbers[head]).join(", ")}`;
  return `${place.over === "max" ? "largest" : "mean"} of ${which}`;
}

/**
 * The place as a title: layer, heads, and the sequence of several.
 * @param {Chosen} chosen
 * @returns {string}
 */
export function placeTitle(chosen) {
  const sequence = chosen.layer.batch > 1 ? `, sequence ${chosen.sequence}` : "";
  return `${chosen.layer.name}, ${mapHeads(chosen)}${sequence}`;
}

/**
 * What the pixels are.
 * @param {Known} known
 * @param {Chosen} chosen
 * @returns {string}
 */
export function exactnessInWords(known, chosen) {
  const { layer, place } = chosen;
  if (!layer.map) return "no map was read of this layer";
  if (!layer.q_len || !layer.k_len) return "the layer has no pairs of tokens";
  if (known.lost) return "the program that serves this page does not answer; it is asked again";
  if (known.refused) return known.refused;
  if (known.coarse || !known.total) return wordsCoarse(known, place.pool ?? "mean");
  if (known.ready < known.total) {
    const missing = known.total - known.ready;
    const part = (known.ready + missing * (known.building || 0)) / known.total;
    const building = Number.isNaN(known.building) ? "" : ": the coarser levels of this map are being computed";
    return `being refined, ${Math.floor(part * 100)} %${building}`;
  }
  if (known.bins.q === 1 && known.bins.k === 1) return "exact: a cell is one query and one key";
  const held = layer.exact ? "a pixel" : "a cell of the finest level that is held";
  return `pooled exactly: ${held} is ${wordsPairs(known.bins.q, known.bins.k, place.pool)}`;
}

/** @param {Known} known @param {string} pool */
function wordsCoarse({ coarse }, pool) {
  if (!coarse) return "being asked for";
  if (coarse.exact) return "exact: a cell is one query and one key";
  const size = [coarse.qBin, coarse.kBin].map((bin) => Number(bin.toFixed(1)));
  return `magnified from the coarse map, the finest that was kept: a cell is ${wordsPairs(size[0], size[1], pool)}`;
}

/** @param {number} queries @param {number} keys @param {string | undefined} pool */
function wordsPairs(queries, keys, pool) {
  return `the ${pool === "max" ? "largest" : "mean"} of ${queries} × ${keys} pairs (queries × keys)`;
}

/**
 * The places of a cell: "query 12 cat", "queries 8 – 15"; of an axis that a crosshair has no place on, none.
 * @param {Pick<Cell, "q0" | "q1" | "k0" | "k1">} cell
 * @param {{queries: AxisText, keys: AxisText}} axes
 * @param {import("./client.js").LayerInfo} layer
 * @returns {string[]}
 */
export function cellPlaces(cell, axes, layer) {
  const one = (/** @type {string} */ name, /** @type {string} */ many, /** @type {number} */ from, /** @type {number} */ to, /** @type {AxisText} */ axis) =>
    to - from <= 1 ? `${name} ${placeInWords(axis, from)}` : `${many} ${placeInWords(axis, from)} … ${placeInWords(axis, to - 1)}`;
  const next = cell.q1 - cell.q0 <= 1 ? wordsNext(layer, axes.queries.texts, axes.queries.offset + cell.q0) : "";
  const query = Number.isNaN(cell.q0) ? [] : [`${one("query", "queries", cell.q0, cell.q1, axes.queries)}${next && `, before ${next}`}`];
  return [...query, ...(Number.isNaN(cell.k0) ? [] : [one("key", "keys", cell.k0, cell.k1, axes.keys)])];
}

/**
 * Which of two tokens a row is named by, where that is a question: a decoder has read one and writes the next.
 * @param {import("./client.js").LayerInfo | undefined} layer
 * @returns {string}
 */
export function rowsInWords(layer) {
  if (!layer || layer.role === "self" || layer.tokens.queries === null) return "";
  return "each named by the token just read (the next is what is written)";
}

/**
 * What a decoder writes where it has read a token: the token after it, where that is known.
 * @param {import("./client.js").LayerInfo} layer
 * @param {string[] | null} texts
 * @param {number} position of the token that it has read
 * @returns {string}
 */
export function wordsNext(layer, texts, position) {
  const next = layer.role === "self" ? undefined : texts?.[position + 1];
  return next === undefined ? "" : shownToken(next, 30);
}

/**
 * What is listed of a row or a column.
 * @param {import("./rows.js").Line} line
 * @param {AxisText} text
 * @returns {string}
 */
export function lineTitle({ axis, index }, text) {
  const name = `${namedAt(text, index, 30)} (${text.offset + index})`;
  return axis === "queries" ? `${name} reads most` : `who reads ${name} most`;
}

/** @param {Cell} cell @returns {boolean} */
export function isPair(cell) {
  return cell.q1 - cell.q0 <= 1 && cell.k1 - cell.k0 <= 1;
}

/**
 * The weight of a cell in words.
 * @param {Cell} cell
 * @param {string | undefined} pool
 * @param {Float32Array | null} row logarithms of the query's whole row, where they are known
 * @returns {string}
 */
export function cellWeight(cell, pool, row) {
  if (Number.isNaN(cell.log)) return "no weight: padding";
  const weight = weightInFull(Math.exp(cell.log));
  if (!isPair(cell)) return `${weight}, the ${pool === "max" ? "largest" : "mean"} of ${cell.q1 - cell.q0} × ${cell.k1 - cell.k0} pairs`;
  if (!row) return `weight ${weight}`;
  const { rank, of } = rankOf(row, cell.k0);
  return `weight ${weight}, ${of && cell.log > -Infinity ? `${ordinal(rank)} of the ${of} keys that it reads` : "not read"}`;
}

/**
 * A weight in four digits: 0.3125, 2.064e-6.
 * @param {number} weight
 * @returns {string}
 */
export function weightInFull(weight) {
  const digits = Number(weight.toPrecision(4));
  return weight === 0 || weight >= 1e-4 ? String(digits) : digits.toExponential();
}

/** @param {number} number @returns {string} */
export function ordinal(number) {
  const tens = number % 100;
  const ending = tens > 10 && tens < 14 ? "th" : (["th", "st", "nd", "rd"][number % 10] ?? "th");
  return `${number}${ending}`;
}

/**
 * The line of Python that gives what is on screen.
 * @param {Chosen} chosen
 * @param {[number, number]} queries
 * @param {[number, number]} keys
 * @param {string} [name] of the record in Python
 * @returns {string}
 */
export function pythonOf(chosen, queries, keys, name = "record") {
  const { layer, heads, sequence, place } = chosen;
  const slices = `queries=slice(${queries.join(", ")}), keys=slice(${keys.join(", ")}), heads=[${heads.join(", ")}]`;
  const one = heads.length === 1 ? `[${sequence}, 0]` : `[${sequence}].${place.over === "max" ? "amax" : "mean"}(0)`;
  return `${name}[${JSON.stringify(layer.name)}].weights(${slices})${one}`;
}

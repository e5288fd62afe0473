// Which numbers a number is made of, and how, in one line.

import { entryOf } from "./explainmath.js";
import { explainDigits } from "./explainmatrix.js";

/**
 * @typedef {import("./explainmath.js").Matrix} Matrix
 * @typedef {import("./explainmatrix.js").Place} Place
 * @typedef {{context: number[][] | null, rotary: {base: number} | null}} Kind
 * @typedef {Record<string, {row?: number, column?: number}[]>} Lit
 */

const explainTerms = 4; // of a sum that are written out

/**
 * The rows and columns that a number is made of, by the names of their matrices.
 * @param {Place} place
 * @param {number} headDim
 * @param {Kind} kind
 * @returns {Lit}
 */
export function explainSources({ name, row, column }, headDim, kind) {
  if (name === "scores") return { Q: [{ row }], K: [{ row: column }] };
  if (name === "weights") return { scores: [{ row }] };
  if (name === "attended") return { weights: [{ row }], V: [{ column }] };
  if (!"QKV".includes(name)) return {};
  const letter = name.toLowerCase();
  const columns = kind.rotary && name !== "V" ? [{ column }, { column: (column + headDim / 2) % headDim }] : [{ column }];
  return { [explainTokens(name, kind)]: [{ row }], [`W_${letter}`]: columns, [`b_${letter}`]: columns };
}

/**
 * How a number was made.
 * @param {Place} place
 * @param {(name: string) => Matrix | undefined} matrix
 * @param {Kind} kind
 * @returns {string}
 */
export function explainMade(place, matrix, kind) {
  const { name, row, column } = place;
  const of = (/** @type {string} */ one) => /** @type {Matrix} */ (matrix(one));
  const value = explainDigits(entryOf(of(name), row, column));
  const here = `${name}[${row}, ${column}]`;
  if (name === "scores") {
    const [query, key] = [of("Q"), of("K")];
    const sum = explainSum(query.columns, (n) => [entryOf(query, row, n), entryOf(key, column, n)]);
    return `${here} = Q[${row}] · K[${column}] / √${query.columns} = (${sum}) / √${query.columns} = ${value}`;
  }
  if (name === "weights") {
    const scores = of("scores");
    return `${here} = exp(scores[${row}, ${column}]) / the sum of exp(scores[${row}]) = exp(${explainDigits(entryOf(scores, row, column))}) / ${explainDigits(explainRowSum(scores, row))} = ${value}`;
  }
  if (name === "attended") {
    const [weights, values] = [of("weights"), of("V")];
    const sum = explainSum(weights.columns, (n) => [entryOf(weights, row, n), entryOf(values, n, column)]);
    return `${here} = weights[${row}] · V[:, ${column}] = ${sum} = ${value}`;
  }
  return "QKV".includes(name) ? explainProjectedMade(place, of, matrix, kind, value) : `${here} = ${value}`;
}

/**
 * @param {Place} place
 * @param {(name: string) => Matrix} of
 * @param {(name: string) => Matrix | undefined} matrix
 * @param {Kind} kind
 * @param {string} value
 * @returns {string}
 */
function explainProjectedMade({ name, row, column }, of, matrix, kind, value) {
  const letter = name.toLowerCase();
  const tokens = explainTokens(name, kind);
  const [x, weight, bias] = [of(tokens), of(`W_${letter}`), matrix(`b_${letter}`)];
  const plus = bias ? ` + b_${letter}[${column}]` : "";
  const turned = name === "V" ? null : kind.rotary;
  const start = `${name}[${row}, ${column}] = ${turned ? "turned(" : ""}${tokens}[${row}] · W_${letter}[:, ${column}]${plus}`;
  if (turned) {
    const half = weight.columns / 2;
    const angle = row * turned.base ** (-(column % half) / half);
    return `${start}), by ${explainDigits(angle)} radians with column ${(column + half) % weight.columns} = ${value}`;
  }
  const sum = explainSum(x.columns, (n) => [entryOf(x, row, n), entryOf(weight, n, column)]);
  return `${start} = ${sum}${bias ? ` + ${explainDigits(bias.values[column])}` : ""} = ${value}`;
}

/**
 * The sequence that a projection reads.
 * @param {string} name
 * @param {Kind} kind
 * @returns {string}
 */
function explainTokens(name, kind) {
  return name !== "Q" && kind.context ? "context" : "x";
}

/**
 * A sum of products, its first terms written out.
 * @param {number} count
 * @param {(n: number) => [number, number]} factors
 * @returns {string}
 */
function explainSum(count, factors) {
  const terms = [...Array(Math.min(count, explainTerms)).keys()].map((n) => factors(n).map(explainDigits).join(" · "));
  return terms.join(" + ") + (count > explainTerms ? " + …" : "");
}

/**
 * @param {Matrix} scores
 * @param {number} row
 * @returns {number}
 */
function explainRowSum(scores, row) {
  let sum = 0;
  for (let column = 0; column < scores.columns; column++) sum += Math.exp(entryOf(scores, row, column));
  return sum;
}

// Attention on small matrices, in double precision: what the page of `pellucid explain` computes after every change.

/**
 * @typedef {{rows: number, columns: number, values: Float64Array}} Matrix row-major
 * @typedef {{weight: Matrix, bias: Matrix | null}} Projection the bias is one row
 * @typedef {{tokens: Matrix, context: Matrix | null, projections: Projection[], rotary: {base: number} | null}} Given
 * @typedef {{query: Matrix, key: Matrix, value: Matrix, scores: Matrix, weights: Matrix, attended: Matrix}} Computed
 */

/**
 * @param {number[][]} rows
 * @returns {Matrix}
 */
export function matrixOf(rows) {
  return { rows: rows.length, columns: rows[0].length, values: Float64Array.from(rows.flat()) };
}

/**
 * @param {Matrix} matrix
 * @returns {Matrix}
 */
export function copyOf(matrix) {
  return { ...matrix, values: Float64Array.from(matrix.values) };
}

/**
 * @param {Matrix} matrix
 * @param {number} row
 * @param {number} column
 * @returns {number}
 */
export function entryOf(matrix, row, column) {
  return matrix.values[row * matrix.columns + column];
}

/**
 * A matrix from what stands in each place.
 * @param {number} rows
 * @param {number} columns
 * @param {(row: number, column: number) => number} entry
 * @returns {Matrix}
 */
function matrixFrom(rows, columns, entry) {
  const values = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) values[i * columns + j] = entry(i, j);
  return { rows, columns, values };
}

/**
 * @param {Matrix} a
 * @param {Matrix} b
 * @returns {Matrix}
 */
export function product(a, b) {
  return matrixFrom(a.rows, b.columns, (i, j) => {
    let sum = 0;
    for (let n = 0; n < a.columns; n++) sum += entryOf(a, i, n) * entryOf(b, n, j);
    return sum;
  });
}

/**
 * tokens @ weight + bias
 * @param {Matrix} tokens
 * @param {Projection} projection
 * @returns {Matrix}
 */
function projected(tokens, projection) {
  const { weight, bias } = projection;
  const made = product(tokens, weight);
  return bias ? matrixFrom(made.rows, made.columns, (i, j) => entryOf(made, i, j) + bias.values[j]) : made;
}

/**
 * Each row turned by its place: columns j and j + half are a pair, as in pellucid.nn.Rotary.
 * @param {Matrix} x
 * @param {number} base
 * @returns {Matrix}
 */
function turned(x, base) {
  const half = x.columns / 2;
  return matrixFrom(x.rows, x.columns, (row, column) => {
    const pair = column % half;
    const angle = row * base ** (-pair / half);
    const [first, second] = [entryOf(x, row, pair), entryOf(x, row, pair + half)];
    return column < half ? first * Math.cos(angle) - second * Math.sin(angle) : second * Math.cos(angle) + first * Math.sin(angle);
  });
}

/**
 * Each row as shares that sum to 1. The row's largest score is taken off first, so that no exponential overflows.
 * @param {Matrix} scores
 * @returns {Matrix}
 */
export function softmaxOfRows(scores) {
  const result = copyOf(scores);
  for (let i = 0; i < scores.rows; i++) {
    const row = result.values.subarray(i * scores.columns, (i + 1) * scores.columns);
    const largest = row.reduce((most, score) => Math.max(most, score), -Infinity);
    let sum = 0;
    for (let j = 0; j < row.length; j++) sum += row[j] = Math.exp(row[j] - largest);
    for (let j = 0; j < row.length; j++) row[j] /= sum;
  }
  return result;
}

/**
 * All that follows from the numbers given.
 * @param {Given} given
 * @returns {Computed}
 */
export function attentionOf(given) {
  const source = given.context ?? given.tokens;
  const [forQuery, forKey, forValue] = given.projections;
  let [query, key] = [projected(given.tokens, forQuery), projected(source, forKey)];
  if (given.rotary) [query, key] = [turned(query, given.rotary.base), turned(key, given.rotary.base)];
  const value = projected(source, forValue);
  const scale = Math.sqrt(query.columns);
  const scores = matrixFrom(query.rows, key.rows, (i, j) => {
    let sum = 0;
    for (let n = 0; n < query.columns; n++) sum += entryOf(query, i, n) * entryOf(key, j, n);
    return sum / scale;
  });
  const weights = softmaxOfRows(scores);
  return { query, key, value, scores, weights, attended: product(weights, value) };
}

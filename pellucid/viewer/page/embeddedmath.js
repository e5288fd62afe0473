// Bins and joined heads of logarithms of weights, as the server makes them.

/** @typedef {{logs: Float32Array, rows: number, columns: number}} Matrix */

/**
 * Several heads as one: the mean or the largest of each place.
 * @param {Float32Array[]} each
 * @param {string | undefined} over
 * @param {boolean} logs whether these are logarithms
 * @returns {Float32Array}
 */
export function embeddedJoined(each, over, logs) {
  if (each.length === 1) return each[0];
  const found = new Float32Array(each[0].length);
  for (let at = 0; at < found.length; at++) {
    let joined = over === "max" ? -Infinity : 0;
    for (const one of each) {
      const value = one[at];
      if (Number.isNaN(value)) joined = NaN;
      else if (over === "max") joined = Math.max(joined, value);
      else joined += logs ? Math.exp(value) : value;
    }
    if (over !== "max") joined = logs ? Math.log(joined / each.length) : joined / each.length;
    found[at] = joined;
  }
  return found;
}

/**
 * Bins of so many queries by so many keys, the last ones cut.
 * @param {Matrix} exact
 * @param {number} qBin
 * @param {number} kBin
 * @param {string | undefined} pool
 * @returns {Matrix}
 */
export function embeddedPooled(exact, qBin, kBin, pool) {
  if (qBin === 1 && kBin === 1) return exact;
  const [rows, columns] = [Math.ceil(exact.rows / qBin), Math.ceil(exact.columns / kBin)];
  return embeddedBinned(exact, rows, columns, pool, (row) => Math.floor(row / qBin), (column) => Math.floor(column / kBin));
}

/**
 * The whole in at most so many bins either way, all of one size.
 * @param {Matrix} exact
 * @param {number} most
 * @param {string | undefined} pool
 * @returns {Matrix}
 */
export function embeddedOverview(exact, most, pool) {
  const [rows, columns] = [Math.min(most, exact.rows), Math.min(most, exact.columns)];
  if (rows === exact.rows && columns === exact.columns) return exact;
  const rowOf = (/** @type {number} */ row) => Math.floor((row * rows) / exact.rows);
  return embeddedBinned(exact, rows, columns, pool, rowOf, (column) => Math.floor((column * columns) / exact.columns));
}

/**
 * @param {Matrix} exact
 * @param {number} rows
 * @param {number} columns
 * @param {string | undefined} pool
 * @param {(row: number) => number} rowOf
 * @param {(column: number) => number} columnOf
 * @returns {Matrix}
 */
function embeddedBinned(exact, rows, columns, pool, rowOf, columnOf) {
  const [sums, counts] = [new Float64Array(rows * columns), new Uint32Array(rows * columns)];
  const bins = Uint32Array.from({ length: exact.columns }, (_, column) => columnOf(column));
  for (let row = 0; row < exact.rows; row++) {
    const start = rowOf(row) * columns;
    for (let column = 0; column < exact.columns; column++) {
      const log = exact.logs[row * exact.columns + column];
      if (Number.isNaN(log)) continue;
      const bin = start + bins[column];
      const weight = Math.exp(log);
      sums[bin] = pool === "max" ? Math.max(sums[bin], weight) : sums[bin] + weight;
      counts[bin]++;
    }
  }
  const logs = new Float32Array(rows * columns);
  for (let bin = 0; bin < logs.length; bin++) {
    const total = pool === "max" ? sums[bin] : sums[bin] / counts[bin];
    logs[bin] = counts[bin] ? Math.log(total) : NaN;
  }
  return { logs, rows, columns };
}

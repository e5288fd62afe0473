// Whole rows and columns of weights, asked for where somebody stays: what a query reads, who reads a key.

/** @typedef {{axis: "queries" | "keys", index: number}} Line the row of a query, the column of a key */

const rowsKept = 12;

export class RowStore {
  /**
   * @param {import("./client.js").Client} client
   * @param {() => void} changed
   */
  constructor(client, changed) {
    this.client = client;
    this.changed = changed;
    /** @type {Map<string, Float32Array | null>} null: refused */
    this.rows = new Map();
    this.timer = 0;
    /** @type {AbortController | null} */
    this.asking = null;
    this.wanted = "";
  }

  /**
   * A row that is here; else it is asked for after a moment, and no other any more.
   * @param {string} owner
   * @param {import("./client.js").Place} place
   * @param {number} query
   * @returns {Float32Array | null}
   */
  row(owner, place, query) {
    return this.line(owner, place, { axis: "queries", index: query });
  }

  /**
   * The row of a query, or the column of a key.
   * @param {string} owner
   * @param {import("./client.js").Place} place
   * @param {Line} line
   * @returns {Float32Array | null}
   */
  line(owner, place, line) {
    const key = rowsKey(owner, line);
    const kept = this.rows.get(key);
    if (kept !== undefined || this.wanted === key) return kept ?? null;
    this.wanted = key;
    clearTimeout(this.timer);
    this.asking?.abort();
    this.timer = window.setTimeout(() => this.ask(key, place, line), 120);
    return null;
  }

  /**
   * @param {string} key
   * @param {import("./client.js").Place} place
   * @param {Line} line
   */
  async ask(key, place, { axis, index }) {
    const asking = new AbortController();
    this.asking = asking;
    let row = null;
    try {
      const { client } = this;
      row = (await (axis === "queries" ? client.row(place, index, asking.signal) : client.column(place, index, asking.signal))).values;
    } catch {} // the weight is shown without its rank
    if (asking.signal.aborted) return;
    this.wanted = "";
    this.rows.set(key, row);
    if (this.rows.size > rowsKept) this.rows.delete(/** @type {string} */ (this.rows.keys().next().value));
    this.changed();
  }

  /** Whether a row or a column was asked for in vain. @param {string} owner @param {Line} line */
  isRefused(owner, line) {
    return this.rows.get(rowsKey(owner, line)) === null;
  }

  destroy() {
    clearTimeout(this.timer);
    this.asking?.abort();
  }
}

/** @param {string} owner @param {Line} line */
function rowsKey(owner, { axis, index }) {
  return `${owner} ${axis} ${index}`;
}

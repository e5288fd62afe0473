// Whole rows of weights, asked for where somebody stays: a weight's rank among all that its query reads.

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
    const key = `${owner} ${query}`;
    const kept = this.rows.get(key);
    if (kept !== undefined || this.wanted === key) return kept ?? null;
    this.wanted = key;
    clearTimeout(this.timer);
    this.asking?.abort();
    this.timer = window.setTimeout(() => this.ask(key, place, query), 120);
    return null;
  }

  /**
   * @param {string} key
   * @param {import("./client.js").Place} place
   * @param {number} query
   */
  async ask(key, place, query) {
    const asking = new AbortController();
    this.asking = asking;
    let row = null;
    try {
      row = (await this.client.row(place, query, asking.signal)).values;
    } catch {} // the weight is shown without its rank
    if (asking.signal.aborted) return;
    this.wanted = "";
    this.rows.set(key, row);
    if (this.rows.size > rowsKept) this.rows.delete(/** @type {string} */ (this.rows.keys().next().value));
    this.changed();
  }

  /** Whether a row was asked for in vain. @param {string} owner @param {number} query */
  isRefused(owner, query) {
    return this.rows.get(`${owner} ${query}`) === null;
  }

  destroy() {
    clearTimeout(this.timer);
    this.asking?.abort();
  }
}

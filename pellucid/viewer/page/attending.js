// What chosen tokens read, or who reads them: which are chosen, asked for once, kept, and given up when out of date.

import { Refusal } from "./client.js";
import { numbersOf } from "./state.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./app.js").Chosen} Chosen
 * @typedef {import("./state.js").State} State
 * @typedef {"reads" | "read"} Direction reads: of a query, a value a key; read: of a key, a value a query
 * @typedef {{direction: Direction, places: number[], each: Float32Array[], joined: Float32Array, fixed: boolean,
 *   known: number | null}} Shown logarithms; known: only so many keys of each query are known, others are NaN
 */

const ATTENDING_KEPT = 12e6; // values, 48 MB

/** Rows and columns of the weights of what is chosen. */
export class Attending {
  /**
   * @param {Page} page
   * @param {() => void} onchange
   * @param {() => void} onbusy whether something is asked for has changed
   */
  constructor(page, onchange, onbusy) {
    this.page = page;
    this.onchange = onchange;
    this.onbusy = onbusy;
    this.busy = false;
    /** @type {Chosen | null} */
    this.chosen = null;
    /** @type {Direction} */
    this.direction = "reads";
    /** @type {number[]} */
    this.fixed = [];
    /** @type {{direction: Direction, index: number} | null} */
    this.point = null;
    /** @type {Shown | null} */
    this.shown = null;
    this.message = "";
    /** @type {number | null} */
    this.known = null;
    /** @type {Map<string, Float32Array>} */
    this.kept = new Map();
    this.keptSize = 0;
    /** @type {AbortController | null} */
    this.asking = null;
    this.timer = 0;
  }

  destroy() {
    this.asking?.abort();
    clearTimeout(this.timer);
  }

  /** @param {State} state */
  update(state) {
    const chosen = this.page.chosen(state);
    const before = this.chosen && JSON.stringify(this.chosen.place);
    if (!chosen || JSON.stringify(chosen.place) !== before) {
      this.shown = null;
      if (this.chosen && chosen && this.chosen.layer.number !== chosen.layer.number) this.keepPoint(chosen);
    }
    this.chosen = chosen;
    this.direction = state.direction === "read" ? "read" : "reads";
    this.fixed = numbersOf(state.fixed).filter((index) => index < this.length(this.direction));
    this.refresh(0);
  }

  /** A point is a place of a layer's axis: in another layer it may be beyond the end. @param {Chosen} chosen */
  keepPoint(chosen) {
    if (!this.point) return;
    const { q_len, k_len } = chosen.layer;
    if (this.point.index >= (this.point.direction === "reads" ? q_len : k_len)) this.point = null;
  }

  /** How many there are of what is chosen. @param {Direction} direction */
  length(direction) {
    const layer = this.chosen?.layer;
    return layer ? (direction === "reads" ? layer.q_len : layer.k_len) : 0;
  }

  /**
   * Point at a token: shown where none is fixed.
   * @param {Direction} direction
   * @param {number} index
   */
  pointAt(direction, index) {
    if (index < 0 || index >= this.length(direction)) return;
    this.point = { direction, index };
    if (!this.fixed.length) this.refresh(50);
  }

  /** Point at nothing. */
  unpoint() {
    this.point = null;
    if (!this.fixed.length) this.refresh(0);
  }

  /**
   * Fix a token, or free it. Others stay fixed where `add`.
   * @param {Direction} direction
   * @param {number} index
   * @param {boolean} add
   */
  toggle(direction, index, add) {
    if (index < 0 || index >= this.length(direction)) return;
    const same = direction === this.direction;
    const others = this.fixed.filter((one) => one !== index);
    const had = same && others.length < this.fixed.length;
    const several = add || Boolean(this.page.state.get("several"));
    const fixed = had ? (several ? others : []) : same && several ? [...this.fixed, index] : [index];
    const patch = { fixed: fixed.join(",") || null, direction: direction === "read" ? "read" : null };
    this.page.state.set(add && fixed.length > 1 && !this.page.state.get("several") ? { ...patch, several: "mean" } : patch);
  }

  /** The tokens that are to be shown now, and how they were chosen. */
  wanted() {
    if (this.fixed.length) return { direction: this.direction, places: this.fixed, fixed: true };
    return this.point ? { direction: this.point.direction, places: [this.point.index], fixed: false } : null;
  }

  /** Show what is wanted: at once where it is kept, else asked for once nothing else was wanted for a while. @param {number} wait */
  refresh(wait) {
    clearTimeout(this.timer);
    this.asking?.abort();
    const wanted = this.wanted();
    this.setBusy(false);
    if (!wanted || !this.chosen) {
      this.shown = null;
      this.message = "";
      this.onchange();
    } else if (wanted.places.every((place) => this.kept.has(this.name(wanted.direction, place)))) this.show(wanted);
    else {
      this.setBusy(true);
      this.timer = window.setTimeout(() => this.fetch(wanted), wait);
    }
  }

  /** @param {boolean} busy */
  setBusy(busy) {
    this.busy = busy;
    this.onbusy();
  }

  /** @param {Direction} direction @param {number} index */
  name(direction, index) {
    return `${JSON.stringify(this.chosen?.place)} ${direction} ${index}`;
  }

  /** @param {{direction: Direction, places: number[], fixed: boolean}} wanted */
  async fetch(wanted) {
    const asking = (this.asking = new AbortController());
    const late = window.setTimeout(() => this.say("asking for the weights …"), 200);
    try {
      for (const place of wanted.places) await this.logs(wanted.direction, place, asking.signal);
      if (!asking.signal.aborted) this.show(wanted);
    } catch (error) {
      if (!asking.signal.aborted) {
        this.shown = null;
        this.say(error instanceof Refusal ? error.message : String(error));
      }
    } finally {
      clearTimeout(late);
      if (!asking.signal.aborted) this.setBusy(false);
    }
  }

  /** @param {string} message */
  say(message) {
    this.message = message;
    this.onchange();
  }

  /** @param {{direction: Direction, places: number[], fixed: boolean}} wanted */
  show(wanted) {
    const each = wanted.places.map((place) => /** @type {Float32Array} */ (this.kept.get(this.name(wanted.direction, place))));
    const joined = each.length === 1 ? each[0] : meanLogs(each);
    this.shown = { ...wanted, each, joined, known: this.chosen?.layer.exact ? null : this.known };
    this.message = this.nothing(this.shown);
    this.onchange();
  }

  /** Why there is nothing to see of what is shown, or nothing. @param {Shown} shown */
  nothing(shown) {
    if (shown.joined.some((log) => log > -Infinity)) return "";
    if (shown.known !== null && shown.direction === "read") return `It is among the ${shown.known} strongest keys of no query; others are not known.`;
    const unknown = shown.joined.every((log) => Number.isNaN(log));
    if (shown.direction === "reads") return unknown ? "This query is padding: it has no weights." : "This query reads no key.";
    return unknown ? "Every query is padding." : "No query reads this key.";
  }

  /**
   * The logarithms of one row or column, from what is kept or asked for.
   * @param {Direction} direction
   * @param {number} index
   * @param {AbortSignal} signal
   * @returns {Promise<Float32Array>}
   */
  async logs(direction, index, signal) {
    const name = this.name(direction, index);
    const kept = this.kept.get(name);
    if (kept) return kept;
    const { layer, place } = /** @type {Chosen} */ (this.chosen);
    const client = this.page.client;
    let logs;
    if (!layer.exact) logs = await this.fromTop(direction, index);
    else logs = (await (direction === "reads" ? client.row(place, index, signal) : client.column(place, index, signal))).values;
    this.keep(name, logs);
    return logs;
  }

  /** @param {string} name @param {Float32Array} logs */
  keep(name, logs) {
    this.kept.set(name, logs);
    this.keptSize += logs.length;
    for (const [old, values] of this.kept) {
      if (this.keptSize <= ATTENDING_KEPT || old === name) break;
      this.kept.delete(old);
      this.keptSize -= values.length;
    }
  }

  /**
   * What the strongest keys alone tell; all else is NaN.
   * @param {Direction} direction
   * @param {number} index
   * @returns {Promise<Float32Array>}
   */
  async fromTop(direction, index) {
    const { layer, place, heads } = /** @type {Chosen} */ (this.chosen);
    if (!layer.top) throw new Refusal("The layer kept neither query and key nor its strongest keys: nothing is known of single tokens.", 404);
    if (heads.length !== 1) throw new Refusal("The layer kept the strongest keys of each head, and no query and key: choose one head to see them.", 404);
    const top = await this.page.once(`top ${JSON.stringify(place)}`, () => this.page.client.top({ ...place, heads: String(heads[0]) }));
    this.known = top.count;
    const logs = new Float32Array(direction === "reads" ? layer.k_len : layer.q_len).fill(NaN);
    const [first, last] = direction === "reads" ? [index * top.count, (index + 1) * top.count] : [0, top.keys.length];
    for (let at = first; at < last; at++) {
      const key = top.keys[at];
      if (direction === "reads" && key >= 0) logs[key] = top.logs[at];
      else if (direction === "read" && key === index) logs[Math.floor(at / top.count)] = top.logs[at];
    }
    return logs;
  }
}

/**
 * The logarithms of the mean weights of several rows: of those that are not padding, and NaN where one is not known.
 * @param {Float32Array[]} rows
 * @returns {Float32Array}
 */
export function meanLogs(rows) {
  const counted = rows.filter((row) => !row.every((log) => Number.isNaN(log)));
  const means = new Float32Array(rows[0].length).fill(NaN);
  if (!counted.length) return means;
  for (let i = 0; i < means.length; i++) {
    let sum = 0;
    for (const row of counted) sum += Math.exp(row[i]);
    means[i] = Math.log(sum / counted.length);
  }
  return means;
}

/**
 * The places of the largest values, largest first; NaN and weights of 0 are none.
 * @param {Float32Array} logs
 * @param {number} count
 * @returns {number[]}
 */
export function strongest(logs, count) {
  /** @type {number[]} */
  const found = [];
  for (let i = 0; i < logs.length; i++) {
    if (!(logs[i] > -Infinity) || (found.length === count && logs[i] <= logs[found[count - 1]])) continue;
    let at = found.length;
    while (at > 0 && logs[found[at - 1]] < logs[i]) at--;
    found.splice(at, 0, i);
    if (found.length > count) found.pop();
  }
  return found;
}

/**
 * How many values are larger, plus one; and of how many: weights of 0 and what is not known do not count.
 * @param {Float32Array} logs
 * @param {number} place
 * @returns {{rank: number, of: number}}
 */
export function rankOf(logs, place) {
  let [rank, of] = [1, 0];
  for (const log of logs) {
    if (log > logs[place]) rank++;
    if (log > -Infinity) of++;
  }
  return { rank, of };
}

// The weights between the tokens in sight of two texts, and those of them that are drawn as lines.

import { Refusal } from "./client.js";
import { placeOn } from "./colour.js";

/**
 * @typedef {import("./app.js").Chosen} Chosen
 * @typedef {{query: number, key: number, log: number}} Link
 * @typedef {{logs: Float32Array, queries: [number, number], keys: [number, number]}} LinkWindow
 */

const LINKS_STEP = 64; // windows begin and end at multiples, so that little is asked again
const LINKS_LARGEST = 1 << 20; // weights of one window
const LINKS_KEPT = 8;

export class Links {
  /**
   * @param {import("./app.js").Page} page
   * @param {() => void} onchange
   */
  constructor(page, onchange) {
    this.page = page;
    this.onchange = onchange;
    /** @type {Map<string, LinkWindow>} */
    this.kept = new Map();
    /** @type {LinkWindow | null} */
    this.window = null;
    this.message = "";
    this.wanted = "";
    this.timer = 0;
    /** @type {AbortController | null} */
    this.asking = null;
  }

  destroy() {
    clearTimeout(this.timer);
    this.asking?.abort();
  }

  /** Ask again for what was refused. */
  again() {
    if (this.message && !this.window) this.wanted = "";
  }

  /** Whether weights are asked for. */
  get busy() {
    return this.wanted !== "" && !this.window && !this.message;
  }

  /**
   * Ask for the weights of the tokens in sight; of all keys, where these are not too many.
   * @param {Chosen} chosen
   * @param {[number, number]} queries
   * @param {[number, number]} keys
   */
  show(chosen, queries, keys) {
    const rows = linksRange(queries, chosen.layer.q_len);
    const all = (rows[1] - rows[0]) * chosen.layer.k_len <= LINKS_LARGEST;
    const columns = all ? /** @type {[number, number]} */ ([0, chosen.layer.k_len]) : linksRange(keys, chosen.layer.k_len);
    const name = `${JSON.stringify(chosen.place)} ${rows} ${columns}`;
    if (name === this.wanted) return;
    this.wanted = name;
    clearTimeout(this.timer);
    this.asking?.abort();
    const kept = this.kept.get(name);
    if (kept || rows[0] === rows[1] || columns[0] === columns[1]) {
      this.window = kept ?? null;
      this.message = kept ? this.message : "Nothing is in sight.";
      this.onchange();
    } else this.timer = window.setTimeout(() => this.fetch(name, chosen, rows, columns), this.window ? 80 : 0);
  }

  /** @param {string} name @param {Chosen} chosen @param {[number, number]} queries @param {[number, number]} keys */
  async fetch(name, chosen, queries, keys) {
    const asking = (this.asking = new AbortController());
    try {
      const logs = chosen.layer.exact ? (await this.page.client.window(chosen.place, queries, keys, asking.signal)).values : await this.fromTop(chosen, queries, keys);
      if (asking.signal.aborted) return;
      this.window = { logs, queries, keys };
      this.kept.set(name, this.window);
      for (const old of this.kept.keys()) if (this.kept.size > LINKS_KEPT) this.kept.delete(old);
      this.message = "";
    } catch (error) {
      if (asking.signal.aborted) return;
      this.window = null;
      this.message = error instanceof Refusal ? error.message : String(error);
    }
    this.onchange();
  }

  /**
   * A window of which only the strongest keys are known.
   * @param {Chosen} chosen
   * @param {[number, number]} queries
   * @param {[number, number]} keys
   */
  async fromTop(chosen, queries, keys) {
    const { layer, heads, place } = chosen;
    if (!layer.top || heads.length !== 1) throw new Refusal(layer.top ? "The layer kept the strongest keys of each head, and no query and key: choose one head to see them." : "The layer kept neither query and key nor its strongest keys: no lines are known.", 404);
    const top = await this.page.once(`top ${JSON.stringify(place)}`, () => this.page.client.top({ ...place, heads: String(heads[0]) }));
    const logs = new Float32Array((queries[1] - queries[0]) * (keys[1] - keys[0])).fill(NaN);
    for (let at = queries[0] * top.count; at < queries[1] * top.count; at++) {
      const [row, key] = [Math.floor(at / top.count), top.keys[at]];
      if (key >= keys[0] && key < keys[1]) logs[(row - queries[0]) * (keys[1] - keys[0]) + key - keys[0]] = top.logs[at];
    }
    return logs;
  }
}

/**
 * @param {[number, number]} range
 * @param {number} length
 * @returns {[number, number]}
 */
function linksRange(range, length) {
  return [Math.floor(range[0] / LINKS_STEP) * LINKS_STEP, Math.min(Math.ceil(range[1] / LINKS_STEP) * LINKS_STEP, length)];
}

/**
 * The strongest links between what is in sight that are not under a weight, weakest first; and how many there are in all.
 * @param {LinkWindow} window
 * @param {[number, number]} queries
 * @param {[number, number]} keys
 * @param {number} least a weight
 * @param {number} most links
 * @returns {{links: Link[], count: number}}
 */
export function linksOf(window, queries, keys, least, most) {
  /** @type {Link[]} */
  const links = [];
  const width = window.keys[1] - window.keys[0];
  const floor = Math.fround(Math.log(least)); // as the weights themselves are rounded
  for (let query = Math.max(queries[0], window.queries[0]); query < Math.min(queries[1], window.queries[1]); query++) {
    const start = (query - window.queries[0]) * width;
    for (let key = Math.max(keys[0], window.keys[0]); key < Math.min(keys[1], window.keys[1]); key++) {
      const log = window.logs[start + key - window.keys[0]];
      if (log >= floor) links.push({ query, key, log });
    }
  }
  const count = links.length;
  links.sort((a, b) => b.log - a.log);
  return { links: links.slice(0, most).reverse(), count };
}

/**
 * How thick and how strong the line of a weight is.
 * @param {number} log
 * @param {import("./colour.js").Scale} scale
 * @returns {{width: number, opacity: number}}
 */
export function lineStrength(log, scale) {
  const at = placeOn(log, scale);
  return { width: 0.6 + 4 * at, opacity: 0.2 + 0.7 * at };
}

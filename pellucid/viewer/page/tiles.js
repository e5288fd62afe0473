// Tiles of maps: asked for in order of need, at most eight at once, kept while there is room.

import { Building, Refusal } from "./client.js";

/**
 * @typedef {import("./client.js").Place} Place
 * @typedef {import("./client.js").Values} Values
 * @typedef {import("./viewport.js").TilePlace} TilePlace
 * @typedef {import("./viewport.js").Pair} Pair
 * @typedef {import("./viewport.js").Visible} Visible
 * @typedef {{logs: Float32Array, rows: number, columns: number, q0: number, k0: number, qBin: number, kBin: number,
 *   exact: boolean, owner: string, extremes: Float32Array, extent: Visible}} Tile extent: where it ends, in tokens
 * @typedef {{key: string, place: Place, lengths: Pair, tile: TilePlace | null}} Wish tile null: the whole map, coarse
 * @typedef {{until: number, tries: number, fraction: number}} Waiting
 */

const tilesInFlight = 8;
const tilesBlocks = 8; // a tile's extremes are known by blocks, so that a scale fits what is visible of it

/** The tiles of a view. */
export class TileStore {
  /**
   * @param {import("./client.js").Client} client
   * @param {() => void} changed told when a tile has come, or what is known of one has changed
   * @param {number} [budget] bytes of values that are kept
   */
  constructor(client, changed, budget = 1.2e8) {
    this.client = client;
    this.changed = changed;
    this.budget = budget;
    this.bytes = 0;
    this.version = 0; // of what is kept
    /** @type {Map<string, Tile>} the least recently used first */
    this.tiles = new Map();
    /** @type {Map<string, AbortController>} */
    this.asked = new Map();
    /** @type {Map<string, Waiting>} */
    this.waiting = new Map();
    /** @type {Map<string, string>} */
    this.refused = new Map();
    /** @type {Wish[]} */
    this.wanted = [];
    this.timer = 0;
  }

  /** What is needed now, the most urgent first; what nobody needs any more is no longer asked for. @param {Wish[]} wishes */
  want(wishes) {
    this.wanted = wishes;
    const keys = new Set(wishes.map((wish) => wish.key));
    for (const [key, controller] of this.asked) if (!keys.has(key)) controller.abort();
    for (const key of this.waiting.keys()) if (!keys.has(key)) this.waiting.delete(key);
    this.pump();
  }

  /** @param {string} key @returns {Tile | undefined} */
  tile(key) {
    const tile = this.tiles.get(key);
    if (tile) {
      this.tiles.delete(key);
      this.tiles.set(key, tile);
    }
    return tile;
  }

  /** Ask again for what was refused. */
  again() {
    this.refused.clear();
    this.waiting.clear();
    this.pump();
  }

  pump() {
    clearTimeout(this.timer);
    const now = performance.now();
    let next = Infinity;
    for (const wish of this.wanted) {
      if (this.asked.size >= tilesInFlight) return;
      if (this.tiles.has(wish.key) || this.asked.has(wish.key) || this.refused.has(wish.key)) continue;
      const until = this.waiting.get(wish.key)?.until ?? 0;
      if (until > now) next = Math.min(next, until);
      else this.ask(wish);
    }
    if (next < Infinity) this.timer = window.setTimeout(() => this.pump(), next - now);
  }

  /** @param {Wish} wish */
  async ask(wish) {
    const controller = new AbortController();
    this.asked.set(wish.key, controller);
    try {
      const query = wish.tile ? { ...wish.place, ...wish.tile, dtype: "f32" } : null;
      const answer = await (query ? this.client.tile(query, controller.signal) : this.client.overview(wish.place, controller.signal));
      if (answer instanceof Building) this.wait(wish.key, answer.fraction, 120);
      else this.keep(wish, answer);
    } catch (error) {
      if (!controller.signal.aborted) this.failed(wish.key, error);
    }
    if (this.asked.get(wish.key) === controller) this.asked.delete(wish.key);
    this.pump();
    if (!controller.signal.aborted) this.changed();
  }

  /**
   * @param {string} key
   * @param {unknown} error
   */
  failed(key, error) {
    if (error instanceof Refusal && (error.status === 0 || error.status === 503)) this.wait(key, NaN, 1000);
    else this.refused.set(key, error instanceof Error ? error.message : String(error));
  }

  /**
   * @param {string} key
   * @param {number} fraction
   * @param {number} least milliseconds
   */
  wait(key, fraction, least) {
    const tries = (this.waiting.get(key)?.tries ?? 0) + 1;
    const until = performance.now() + Math.min(least * 1.4 ** tries, 2000);
    this.waiting.set(key, { tries, until, fraction });
  }

  /**
   * @param {Wish} wish
   * @param {Values} answer
   */
  keep(wish, answer) {
    this.waiting.delete(wish.key);
    const tile = tileFrom(wish, answer);
    this.tiles.set(wish.key, tile);
    this.version++;
    this.bytes += tile.logs.byteLength;
    for (const [key, oldest] of this.tiles) {
      if (this.bytes <= this.budget || key === wish.key) break;
      this.tiles.delete(key);
      this.bytes -= oldest.logs.byteLength;
    }
  }

  destroy() {
    clearTimeout(this.timer);
    this.wanted = [];
    for (const controller of this.asked.values()) controller.abort();
    this.tiles.clear();
  }
}

/**
 * @param {Wish} wish
 * @param {Values} answer
 * @returns {Tile}
 */
export function tileFrom(wish, answer) {
  const [rows, columns] = answer.shape;
  const { lengths, tile } = wish;
  const [qBin, kBin] = tile ? [2 ** tile.zq, 2 ** tile.zk] : (answer.bins ?? [lengths.q / rows, lengths.k / columns]);
  const [q0, k0] = tile ? [tile.i * 256 * qBin, tile.j * 256 * kBin] : [0, 0];
  const extent = { q0, q1: Math.min(q0 + rows * qBin, lengths.q), k0, k1: Math.min(k0 + columns * kBin, lengths.k) };
  const extremes = blockExtremes(answer.values, rows, columns);
  return { logs: answer.values, rows, columns, q0, k0, qBin, kBin, exact: answer.exact, owner: ownerOf(wish.place), extremes, extent };
}

/** Whose tiles: everything but where they are. @param {Place} place @returns {string} */
export function ownerOf(place) {
  const over = /^\d+$/.test(place.heads) ? "" : place.over;
  return [place.record, place.layer, place.heads, over, place.pool, place.sequence].join(" ");
}

/**
 * The least logarithm above -inf and the largest of each of 8 × 8 blocks.
 * @param {Float32Array} logs
 * @param {number} rows
 * @param {number} columns
 * @returns {Float32Array}
 */
export function blockExtremes(logs, rows, columns) {
  const found = new Float32Array(tilesBlocks * tilesBlocks * 2);
  for (let block = 0; block < found.length; block += 2) [found[block], found[block + 1]] = [Infinity, -Infinity];
  for (let row = 0; row < rows; row++) {
    const blockRow = Math.floor((row * tilesBlocks) / rows) * tilesBlocks;
    for (let column = 0; column < columns; column++) {
      const log = logs[row * columns + column];
      const block = (blockRow + Math.floor((column * tilesBlocks) / columns)) * 2;
      if (log < found[block] && log > -Infinity) found[block] = log;
      if (log > found[block + 1]) found[block + 1] = log;
    }
  }
  return found;
}

/**
 * The extremes of the part of a tile that is visible.
 * @param {Tile} tile
 * @param {Visible} visible
 * @returns {[number, number]}
 */
export function extremesIn(tile, visible) {
  const [height, width] = [tile.rows * tile.qBin, tile.columns * tile.kBin];
  const first = (/** @type {number} */ from, /** @type {number} */ start, /** @type {number} */ size) =>
    Math.max(0, Math.floor(((from - start) / size) * tilesBlocks));
  const last = (/** @type {number} */ to, /** @type {number} */ start, /** @type {number} */ size) =>
    Math.min(tilesBlocks, Math.ceil(((to - start) / size) * tilesBlocks));
  let [low, high] = [Infinity, -Infinity];
  for (let row = first(visible.q0, tile.q0, height); row < last(visible.q1, tile.q0, height); row++) {
    for (let column = first(visible.k0, tile.k0, width); column < last(visible.k1, tile.k0, width); column++) {
      const block = (row * tilesBlocks + column) * 2;
      low = Math.min(low, tile.extremes[block]);
      high = Math.max(high, tile.extremes[block + 1]);
    }
  }
  return [low, high];
}

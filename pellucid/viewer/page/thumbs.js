// Small maps of all heads of a layer: fetched a layer at a time, what is in sight first, and drawn.

import { Building, Refusal } from "./client.js";
import { coloured, fittedScale } from "./colour.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./client.js").LayerInfo} LayerInfo
 * @typedef {import("./client.js").Values} Values
 * @typedef {{record: string, sequence: number, pool: string, most: number}} ThumbsAsked
 * @typedef {{kind: import("./colour.js").ScaleKind, table: Uint8Array, zero: number[], nothing: number[]}} ThumbsLook
 */

const thumbsAtOnce = 4;
const thumbsMost = 1 << 24; // values kept, of float32

/** @type {WeakMap<Page, Map<string, Values>>} kept while the page lives, for the way back from another view */
const thumbsKept = new WeakMap();

/** Fetches what is wanted, in the order in which it is wanted. */
export class Thumbs {
  /**
   * @param {Page} page
   * @param {(layer: number) => void} told when there is news of a layer: its maps, a refusal, how far it is
   */
  constructor(page, told) {
    this.page = page;
    this.told = told;
    /** @type {ThumbsAsked} */
    this.asked = { record: "", sequence: 0, pool: "mean", most: 48 };
    /** @type {LayerInfo[]} */
    this.wanted = [];
    /** @type {Map<string, AbortController>} */
    this.flying = new Map();
    /** @type {Map<string, string>} why there is nothing, or how far it is */
    this.words = new Map();
    /** @type {Map<string, number>} when to ask again what is being built */
    this.later = new Map();
    this.timer = 0;
    const kept = thumbsKept.get(page) ?? new Map();
    thumbsKept.set(page, kept);
    this.kept = kept;
  }

  /**
   * @param {LayerInfo} layer
   * @returns {string}
   */
  name(layer) {
    return [this.asked.record, layer.number, layer.name, layer.q_len, layer.k_len, this.asked.sequence, this.asked.pool, this.asked.most].join(" ");
  }

  /**
   * @param {LayerInfo} layer
   * @returns {Values | null}
   */
  of(layer) {
    return this.kept.get(this.name(layer)) ?? null;
  }

  /**
   * What is to be said in the place of a layer's maps.
   * @param {LayerInfo} layer
   * @returns {string}
   */
  said(layer) {
    return this.words.get(this.name(layer)) ?? "";
  }

  /**
   * Whether a layer's maps are still to come.
   * @param {LayerInfo} layer
   * @returns {boolean}
   */
  isAwaited(layer) {
    const name = this.name(layer);
    return layer.map && !this.kept.has(name) && (!this.words.has(name) || this.later.has(name));
  }

  /**
   * @param {ThumbsAsked} asked
   * @param {LayerInfo[]} wanted the first first
   */
  want(asked, wanted) {
    this.asked = asked;
    this.wanted = wanted;
    const names = new Set(wanted.map((layer) => this.name(layer)));
    for (const [name, flying] of this.flying) if (!names.has(name)) flying.abort();
    this.next();
  }

  /** Ask again for what was refused: the server, or the record, is another now. */
  retry() {
    this.words.clear();
    this.later.clear();
    this.next();
  }

  next() {
    const now = performance.now();
    let soonest = Infinity;
    for (const layer of this.wanted) {
      if (this.flying.size >= thumbsAtOnce) return;
      const name = this.name(layer);
      const again = this.later.get(name);
      if (this.kept.has(name) || this.flying.has(name) || !layer.map || (this.words.has(name) && again === undefined)) continue;
      if ((again ?? 0) > now) soonest = Math.min(soonest, again ?? 0);
      else this.fetch(layer, name);
    }
    clearTimeout(this.timer);
    if (soonest < Infinity) this.timer = window.setTimeout(() => this.next(), soonest - now);
  }

  /**
   * @param {LayerInfo} layer
   * @param {string} name
   */
  async fetch(layer, name) {
    const flight = new AbortController();
    this.flying.set(name, flight);
    try {
      const got = await this.page.client.thumbs({ ...this.asked, layer: layer.number }, flight.signal);
      if (got instanceof Building) this.wait(name, got.fraction);
      else this.keep(name, got);
    } catch (error) {
      if (!flight.signal.aborted) this.words.set(name, error instanceof Refusal ? error.message : String(error));
    }
    this.flying.delete(name);
    if (!flight.signal.aborted) this.told(layer.number);
    this.next();
  }

  /** @param {string} name @param {number} fraction */
  wait(name, fraction) {
    this.words.set(name, `being computed: ${Math.floor(fraction * 100)} %`);
    this.later.set(name, performance.now() + 500);
  }

  /** @param {string} name @param {Values} got */
  keep(name, got) {
    this.words.delete(name);
    this.later.delete(name);
    this.kept.set(name, got);
    let count = 0;
    for (const values of this.kept.values()) count += values.values.length;
    for (const [oldest, values] of this.kept) {
      if (count <= thumbsMost || oldest === name) break;
      this.kept.delete(oldest);
      count -= values.values.length;
    }
  }

  destroy() {
    this.wanted = [];
    clearTimeout(this.timer);
    for (const flight of this.flying.values()) flight.abort();
  }
}

/**
 * Draw one head's map, from its own least weight to its own largest, a pixel a bin.
 * @param {HTMLCanvasElement} canvas
 * @param {Values} maps
 * @param {number} place
 * @param {ThumbsLook} look
 */
export function drawThumb(canvas, maps, place, look) {
  const [, rows, columns] = maps.shape;
  if (!rows || !columns) return;
  const logs = maps.values.subarray(place * rows * columns, (place + 1) * rows * columns);
  canvas.width = columns;
  canvas.height = rows;
  const pixels = coloured(logs, fittedScale(look.kind, [logs]), look.table, look);
  canvas.getContext("2d")?.putImageData(new ImageData(/** @type {any} */ (pixels), columns, rows), 0, 0);
}

// Answers that lie in a saved page, and what follows from them: a window from exact tiles, several heads from each.

import { fromFloat16 } from "./float16.js";
import { embeddedJoined, embeddedOverview, embeddedPooled } from "./embeddedmath.js";

/**
 * @typedef {{shape: string, dtype: string, exact: string, bins: string, body: string}} Held bytes: deflated, in base64
 * @typedef {import("./client.js").Reply} Reply
 * @typedef {Record<string, string>} Query
 * @typedef {{logs: Float32Array, rows: number, columns: number}} Matrix
 * @typedef {{heads: number, q_len: number, k_len: number, exact: boolean}} Sizes exact: wholly held
 */

const embeddedSide = 256; // rows and columns of a tile
const embeddedMost = 1 << 24; // values that one question may take together
const embeddedLeast = "this saved page does not hold it; it says what it left out";

/** A question that a saved page has no answer to. */
class EmbeddedRefusal extends Error {}

/**
 * Questions answered from what lies in the page.
 * @param {Record<string, Held>} held
 * @returns {import("./client.js").Transport}
 */
export function embeddedTransport(held) {
  const page = new EmbeddedPage(held);
  return async (path, query, signal) => {
    signal?.throwIfAborted();
    try {
      return await page.answer(path, query);
    } catch (error) {
      if (!(error instanceof EmbeddedRefusal)) throw error;
      const bytes = new TextEncoder().encode(JSON.stringify({ error: error.message }));
      return { status: 404, headers: { "content-type": "application/json" }, bytes: bytes.buffer };
    }
  };
}

class EmbeddedPage {
  /** @param {Record<string, Held>} held */
  constructor(held) {
    this.held = held;
    /** @type {Map<string, Promise<ArrayBuffer>>} the last that were unpacked */
    this.unpacked = new Map();
    /** @type {Promise<any> | null} */
    this.info = null;
  }

  /**
   * @param {string} path
   * @param {Query} query
   * @returns {Promise<Reply>}
   */
  async answer(path, query) {
    if (path === "api/info") return this.reply("api/info");
    const whose = `${path} ${query.record ?? (await this.records())[0].id}`;
    if (path === "api/tokens") return this.reply(`${whose} ${query.sequence ?? 0}`);
    if (path === "api/numbers") return this.reply(whose);
    if (path === "api/picture") return this.reply(`${whose} ${query.image}`);
    const layer = await this.layer(query);
    const place = `${query.record} ${query.layer} ${query.sequence ?? 0}`;
    if (path === "api/thumbs") return this.reply(`api/thumbs ${place} ${query.pool ?? "mean"}`);
    const heads = embeddedHeads(query.heads, layer.heads);
    if (path === "api/align") return this.reply(`${path} ${place} ${heads.length === layer.heads ? "all" : heads.join(",")}`);
    if (path === "api/top") return this.reply(`${path} ${place} ${heads.join(",")}`);
    if (path === "api/strip") return this.strip(place, heads, query);
    if (path === "api/overview") return this.overview(place, layer, heads, query);
    if (path === "api/tile") return this.tile(place, layer, heads, query);
    const [queries, keys] = embeddedSpans(path, query, layer);
    const exact = await this.window(place, layer, heads, query.over, queries, keys);
    const shape = path === "api/row" ? [exact.columns] : path === "api/column" ? [exact.rows] : [exact.rows, exact.columns];
    return embeddedReply(exact.logs, shape, true);
  }

  /** @returns {Promise<any[]>} */
  async records() {
    this.info ??= this.reply("api/info").then((reply) => JSON.parse(new TextDecoder().decode(reply.bytes)));
    return (await this.info).records;
  }

  /**
   * @param {Query} query
   * @returns {Promise<Sizes>}
   */
  async layer(query) {
    const record = (await this.records()).find((one) => one.id === query.record);
    const layer = record?.layers[Number(query.layer)];
    if (!layer) throw new EmbeddedRefusal("layer: there is none of that number");
    return layer;
  }

  /**
   * An answer as it was given when the page was saved.
   * @param {string} key
   * @returns {Promise<Reply>}
   */
  async reply(key) {
    const found = this.held[key];
    if (!found) throw new EmbeddedRefusal(embeddedLeast);
    const headers = { "x-shape": found.shape, "x-dtype": found.dtype, "x-exact": found.exact, "x-bins": found.bins };
    return { status: 200, headers, bytes: await this.bytes(key) };
  }

  /**
   * @param {string} key
   * @returns {Promise<ArrayBuffer>}
   */
  bytes(key) {
    const known = this.unpacked.get(key) ?? embeddedInflated(this.held[key].body);
    this.unpacked.delete(key);
    this.unpacked.set(key, known);
    if (this.unpacked.size > 64) this.unpacked.delete(this.unpacked.keys().next().value ?? "");
    return known.then((bytes) => bytes.slice(0)); // whoever asks may keep and change it
  }

  /**
   * The values of an answer in 32 bits.
   * @param {string} key
   * @returns {Promise<Matrix>}
   */
  async matrix(key) {
    const reply = await this.reply(key);
    const [rows, columns] = reply.headers["x-shape"].split(",").map(Number);
    return { logs: new Float32Array(reply.bytes), rows, columns };
  }

  /**
   * @param {string} place
   * @param {number[]} heads
   * @param {Query} query
   */
  async strip(place, heads, query) {
    const each = await Promise.all(heads.map((head) => this.matrix(`api/strip ${place} ${head} ${query.name}`)));
    return embeddedReply(embeddedJoined(each.map((one) => one.logs), query.over, false), [each[0].rows], true);
  }

  /**
   * @param {string} place
   * @param {Sizes} layer
   * @param {number[]} heads
   * @param {Query} query
   */
  async overview(place, layer, heads, query) {
    if (layer.exact && layer.q_len * layer.k_len * heads.length <= embeddedMost) {
      const all = await this.window(place, layer, heads, query.over, [0, layer.q_len], [0, layer.k_len]);
      const found = embeddedOverview(all, embeddedSide, query.pool);
      return embeddedReply(found.logs, [found.rows, found.columns], found.rows === layer.q_len && found.columns === layer.k_len);
    }
    embeddedCheckPool(heads, query);
    const reply = await this.reply(`api/thumbs ${place} ${query.pool ?? "mean"}`);
    const [, rows, columns] = reply.headers["x-shape"].split(",").map(Number);
    const every = fromFloat16(reply.bytes);
    const each = heads.map((head) => every.subarray(head * rows * columns, (head + 1) * rows * columns));
    const exact = rows === layer.q_len && columns === layer.k_len;
    const { headers, ...found } = embeddedReply(embeddedJoined(each, query.over, true), [rows, columns], exact);
    return { ...found, headers: { ...headers, "x-bins": reply.headers["x-bins"] } };
  }

  /**
   * @param {string} place
   * @param {Sizes} layer
   * @param {number[]} heads
   * @param {Query} query
   */
  async tile(place, layer, heads, query) {
    const [zq, zk, i, j] = ["zq", "zk", "i", "j"].map((name) => Number(query[name]));
    const [queries, keys] = [
      embeddedExtent(i, embeddedSide * 2 ** zq, layer.q_len),
      embeddedExtent(j, embeddedSide * 2 ** zk, layer.k_len),
    ];
    const pool = query.pool ?? "mean";
    const keyOf = (/** @type {number} */ head) => `api/tile ${place} ${head} ${pool} ${zq},${zk} ${i},${j}`;
    if (zq + zk && heads.every((head) => keyOf(head) in this.held)) {
      embeddedCheckPool(heads, query);
      const each = await Promise.all(heads.map((head) => this.matrix(keyOf(head))));
      return embeddedReply(embeddedJoined(each.map((one) => one.logs), query.over, true), [each[0].rows, each[0].columns], false);
    }
    const exact = await this.window(place, layer, heads, query.over, queries, keys);
    const found = embeddedPooled(exact, 2 ** zq, 2 ** zk, pool);
    return embeddedReply(found.logs, [found.rows, found.columns], zq + zk === 0);
  }

  /**
   * Exact weights of a window, of several heads their mean or largest, from the tiles that are held.
   * @param {string} place
   * @param {Sizes} layer
   * @param {number[]} heads
   * @param {string | undefined} over
   * @param {[number, number]} queries
   * @param {[number, number]} keys
   * @returns {Promise<Matrix>}
   */
  async window(place, layer, heads, over, queries, keys) {
    const [rows, columns] = [queries[1] - queries[0], keys[1] - keys[0]];
    if (rows * columns * heads.length > embeddedMost) throw new EmbeddedRefusal(embeddedLeast);
    const each = await Promise.all(heads.map((head) => this.exact(`api/tile ${place} ${head} exact`, queries, keys)));
    return { logs: embeddedJoined(each, over, true), rows, columns };
  }

  /**
   * @param {string} key
   * @param {[number, number]} queries
   * @param {[number, number]} keys
   * @returns {Promise<Float32Array>}
   */
  async exact(key, queries, keys) {
    const found = new Float32Array((queries[1] - queries[0]) * (keys[1] - keys[0]));
    for (let i = Math.floor(queries[0] / embeddedSide); i * embeddedSide < queries[1]; i++) {
      for (let j = Math.floor(keys[0] / embeddedSide); j * embeddedSide < keys[1]; j++) {
        embeddedCopied(await this.matrix(`${key} ${i},${j}`), i * embeddedSide, j * embeddedSide, queries, keys, found);
      }
    }
    return found;
  }
}

/**
 * Copy what a tile has of a window into it.
 * @param {Matrix} tile
 * @param {number} q0
 * @param {number} k0
 * @param {[number, number]} queries
 * @param {[number, number]} keys
 * @param {Float32Array} into
 */
function embeddedCopied(tile, q0, k0, queries, keys, into) {
  const [from, to] = [Math.max(keys[0], k0), Math.min(keys[1], k0 + tile.columns)];
  for (let q = Math.max(queries[0], q0); q < Math.min(queries[1], q0 + tile.rows); q++) {
    const row = (q - q0) * tile.columns - k0;
    into.set(tile.logs.subarray(row + from, row + to), (q - queries[0]) * (keys[1] - keys[0]) + from - keys[0]);
  }
}

/**
 * The window that a row, a column or a window is.
 * @param {string} path
 * @param {Query} query
 * @param {Sizes} layer
 * @returns {[number, number][]}
 */
function embeddedSpans(path, query, layer) {
  const [query0, key0] = [Number(query.query), Number(query.key)];
  if (path === "api/row") return [embeddedChecked([query0, query0 + 1], layer.q_len), [0, layer.k_len]];
  if (path === "api/column") return [[0, layer.q_len], embeddedChecked([key0, key0 + 1], layer.k_len)];
  if (path !== "api/window") throw new EmbeddedRefusal(`${path}: there is no such address`);
  const span = (/** @type {string | undefined} */ text, /** @type {number} */ length) =>
    embeddedChecked(/** @type {[number, number]} */ ((text ?? `0:${length}`).split(":").map(Number)), length);
  return [span(query.queries, layer.q_len), span(query.keys, layer.k_len)];
}

/**
 * @param {[number, number]} span
 * @param {number} length
 * @returns {[number, number]}
 */
function embeddedChecked(span, length) {
  if (!(span[0] >= 0 && span[0] < span[1] && span[1] <= length)) throw new EmbeddedRefusal(`a place from 0 to ${length - 1} is needed`);
  return span;
}

/**
 * @param {number} place
 * @param {number} size
 * @param {number} length
 * @returns {[number, number]}
 */
function embeddedExtent(place, size, length) {
  return embeddedChecked([place * size, Math.min((place + 1) * size, length)], length);
}

/**
 * @param {string | undefined} text
 * @param {number} count
 * @returns {number[]}
 */
function embeddedHeads(text, count) {
  if (text === undefined || text === "all") return [...Array(count).keys()];
  const heads = text.split(",").map(Number);
  if (!heads.every((head) => head >= 0 && head < count)) throw new EmbeddedRefusal(`heads: numbers from 0 to ${count - 1} are needed`);
  return heads;
}

/**
 * The largest of several heads' means is not the mean of what is largest in each pair.
 * @param {number[]} heads
 * @param {Query} query
 */
function embeddedCheckPool(heads, query) {
  if (heads.length > 1 && (query.over ?? "mean") !== (query.pool ?? "mean")) {
    throw new EmbeddedRefusal("of several heads this saved page holds the mean of means and the largest of the largest alone");
  }
}

/**
 * @param {Float32Array} values
 * @param {number[]} shape
 * @param {boolean} exact
 * @returns {Reply}
 */
function embeddedReply(values, shape, exact) {
  const headers = { "x-shape": shape.join(","), "x-dtype": "f32", "x-exact": exact ? "exact" : "pooled" };
  return { status: 200, headers, bytes: /** @type {ArrayBuffer} */ (values.buffer).slice(values.byteOffset, values.byteOffset + values.byteLength) };
}

/**
 * @param {string} text
 * @returns {Promise<ArrayBuffer>}
 */
export function embeddedInflated(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"))).arrayBuffer();
}

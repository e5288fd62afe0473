// Asks for what a view shows, over whatever carries questions and answers: HTTP, a notebook's comm, the page itself.

import { fromFloat16 } from "./float16.js";

/**
 * @typedef {{status: number, headers: Record<string, string>, bytes: ArrayBuffer}} Reply
 * @typedef {(path: string, query: Record<string, string>, signal?: AbortSignal) => Promise<Reply>} Transport
 * @typedef {{values: Float32Array, shape: number[], exact: boolean, bins?: number[]}} Values natural logs of weights, or plain
 *   numbers; bins: tokens of a bin of queries and of keys, where a whole map's bins are not all of one part of the length
 * @typedef {{name: string, axis: "queries" | "keys", unit: string, title: string}} StripInfo
 * @typedef {{number: number, name: string, role: string, batch: number, heads: number, head_numbers: number[],
 *   kv_heads: number, q_len: number, k_len: number, start: number, calls: number[], exact: boolean, map: boolean,
 *   top: boolean, tokens: {queries: "own" | "source" | null, keys: "own" | "source" | null}, query_offset: number,
 *   strips: StripInfo[]}} LayerInfo
 * @typedef {{id: string, edition: string, title: string, path: string | null, model: string, python: string, opens: string, complete: boolean,
 *   following: boolean, notes: string[], missed: {name: string, reason: string}[], batch: number,
 *   segments: Record<string, [number, number | null][]>, images: any[], frames: any[], layers: LayerInfo[]}} RecordInfo
 * @typedef {{title: string, text: string, state: Record<string, string>}} LessonStep
 * @typedef {{name: string, title: string, warning: string, steps: LessonStep[]}} Lesson
 * @typedef {{version: number, pellucid: string, records: RecordInfo[], lesson: Lesson | null, left_out: string[]}} Info
 * @typedef {{own: string[] | null, source: string[] | null, own_special: number[], source_special: number[]}} Tokens
 * @typedef {{layer: number[], head: number[], kind: string[], because: string[], kind_without_sink: string[],
 *   because_without_sink: string[], numbers: Record<string, (number | null)[]>, paired: string[],
 *   titles: Record<string, string>}} Numbers
 * @typedef {{keys: Int32Array, logs: Float32Array, rows: number, count: number}} Top
 * @typedef {"up" | "lost" | "elsewhere"} Serving elsewhere: somebody answers, but for another page
 * @typedef {{record: string, layer: number, heads: string, over?: string, pool?: string, sequence?: number}} Place
 */

/** A request that was refused, or that nobody answered (status 0). */
export class Refusal extends Error {
  /**
   * @param {string} message
   * @param {number} status
   */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** What a tile is answered with while the level that it needs is still being built. */
export class Building {
  /** @param {number} fraction */
  constructor(fraction) {
    this.fraction = fraction;
  }
}

/**
 * Questions by HTTP, relative to the page.
 * @param {string} base
 * @returns {Transport}
 */
export function httpTransport(base) {
  return async (path, query, signal) => {
    const address = `${base}${path}?${new URLSearchParams(query)}`;
    const response = await fetch(address, { signal });
    /** @type {Record<string, string>} */
    const headers = {};
    response.headers.forEach((value, name) => (headers[name.toLowerCase()] = value));
    return { status: response.status, headers, bytes: await response.arrayBuffer() };
  };
}

/** Everything that can be asked. Failures reject with a Refusal; aborted questions with the signal's reason. */
export class Client {
  /** @param {Transport} transport */
  constructor(transport) {
    this.transport = transport;
    /** @type {Set<(now: Serving) => void>} told when answers stop coming, and when they come again */
    this.listeners = new Set();
    /** @type {Serving} */
    this.serving = "up";
    /** @type {Map<string, string>} by record, what `info` said: answers of another edition would not fit what is known of it */
    this.editions = new Map();
    this.outdated = () => {}; // called where a record is another than `info` said
  }

  /**
   * @param {string} path
   * @param {Record<string, string | number | undefined>} query
   * @param {AbortSignal} [signal]
   * @returns {Promise<Reply>}
   */
  async ask(path, query, signal) {
    /** @type {Record<string, string>} */
    const text = {};
    const edition = this.editions.get(String(query.record));
    for (const [name, value] of Object.entries({ ...query, edition })) if (value !== undefined) text[name] = String(value);
    let reply;
    try {
      reply = await this.transport(path, text, signal);
    } catch (error) {
      if (signal?.aborted) throw error;
      this.tell("lost");
      throw new Refusal("the program that serves this page does not answer", 0);
    }
    this.tell(isOfAnother(reply) ? "elsewhere" : "up");
    if (reply.status === 409) this.outdated();
    if (reply.status >= 400) throw new Refusal(refusalOf(reply), reply.status);
    return reply;
  }

  /** @param {Serving} now */
  tell(now) {
    if (now === this.serving) return;
    this.serving = now;
    for (const listener of this.listeners) listener(now);
  }

  /**
   * @param {string} path
   * @param {Record<string, string | number | undefined>} query
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  async json(path, query, signal) {
    return JSON.parse(new TextDecoder().decode((await this.ask(path, query, signal)).bytes));
  }

  /**
   * @param {string} path
   * @param {Record<string, string | number | undefined>} query
   * @param {AbortSignal} [signal]
   * @returns {Promise<Values>}
   */
  async values(path, query, signal) {
    return valuesOf(await this.ask(path, query, signal));
  }

  /** @returns {Promise<Info>} */
  async info() {
    const info = await this.json("api/info", {});
    this.editions = new Map(info.records.map((/** @type {RecordInfo} */ record) => [record.id, record.edition]));
    return info;
  }

  /**
   * @param {string} record
   * @param {number} sequence
   * @returns {Promise<Tokens>}
   */
  tokens(record, sequence) {
    return this.json("api/tokens", { record, sequence });
  }

  /**
   * @param {string} record
   * @returns {Promise<Numbers>}
   */
  numbers(record) {
    return this.json("api/numbers", { record });
  }

  /**
   * The maps of all heads of a layer, [heads, rows, columns].
   * @param {{record: string, layer: number, sequence?: number, pool?: string, most?: number}} query
   * @param {AbortSignal} [signal]
   */
  async thumbs(query, signal) {
    return builtOrNot(await this.ask("api/thumbs", query, signal));
  }

  /**
   * The whole map, as fine as it is there at once.
   * @param {Place} place
   * @param {AbortSignal} [signal]
   */
  async overview(place, signal) {
    return builtOrNot(await this.ask("api/overview", { ...place }, signal));
  }

  /**
   * @param {Place & {zq: number, zk: number, i: number, j: number, dtype?: string}} query
   * @param {AbortSignal} [signal]
   * @returns {Promise<Values | Building>}
   */
  async tile(query, signal) {
    return builtOrNot(await this.ask("api/tile", { ...query }, signal));
  }

  /**
   * Exact weights of a window.
   * @param {Place} place
   * @param {[number, number]} queries
   * @param {[number, number]} keys
   * @param {AbortSignal} [signal]
   */
  window(place, queries, keys, signal) {
    return this.values("api/window", { ...place, queries: queries.join(":"), keys: keys.join(":") }, signal);
  }

  /**
   * What one query reads, a value a key.
   * @param {Place} place
   * @param {number} query
   * @param {AbortSignal} [signal]
   */
  row(place, query, signal) {
    return this.values("api/row", { ...place, query }, signal);
  }

  /**
   * Who reads one key, a value a query.
   * @param {Place} place
   * @param {number} key
   * @param {AbortSignal} [signal]
   */
  column(place, key, signal) {
    return this.values("api/column", { ...place, key }, signal);
  }

  /**
   * A reading along an axis, plain numbers.
   * @param {Place} place
   * @param {string} name
   * @param {AbortSignal} [signal]
   */
  strip(place, name, signal) {
    return this.values("api/strip", { ...place, name }, signal);
  }

  /**
   * The strongest keys of every query of one head.
   * @param {Place} place
   * @param {AbortSignal} [signal]
   * @returns {Promise<Top>}
   */
  async top(place, signal) {
    const reply = await this.ask("api/top", { ...place }, signal);
    const [rows, count] = shapeOf(reply);
    const bytes = rows * count * 4;
    return { keys: new Int32Array(reply.bytes, 0, rows * count), logs: new Float32Array(reply.bytes, bytes), rows, count };
  }

  /**
   * @param {Place} place
   * @param {AbortSignal} [signal]
   * @returns {Promise<{rows: number[], keys: number[], starts: number[], stops: number[]}>}
   */
  align(place, signal) {
    return this.json("api/align", { ...place }, signal);
  }

  /**
   * @param {string} record
   * @param {number} image
   * @param {AbortSignal} [signal]
   * @returns {Promise<{pixels: Uint8Array, height: number, width: number}>}
   */
  async picture(record, image, signal) {
    const reply = await this.ask("api/picture", { record, image }, signal);
    const [height, width] = shapeOf(reply);
    return { pixels: new Uint8Array(reply.bytes), height, width };
  }
}

/**
 * Whether a reply is not of the program that this page is of: one with another token, or another program at its port.
 * @param {Reply} reply
 */
function isOfAnother({ status, headers }) {
  return status === 403 || (status === 404 && !headers["content-type"]?.includes("json"));
}

/**
 * @param {Reply} reply
 * @returns {number[]}
 */
function shapeOf(reply) {
  return reply.headers["x-shape"].split(",").map(Number);
}

/**
 * @param {Reply} reply
 * @returns {Values | Building}
 */
function builtOrNot(reply) {
  if (reply.status !== 202) return valuesOf(reply);
  return new Building(JSON.parse(new TextDecoder().decode(reply.bytes)).building);
}

/**
 * @param {Reply} reply
 * @returns {Values}
 */
function valuesOf(reply) {
  const dtype = reply.headers["x-dtype"];
  const values = dtype === "f16" ? fromFloat16(reply.bytes) : new Float32Array(reply.bytes);
  const bins = reply.headers["x-bins"] ? reply.headers["x-bins"].split(",").map(Number) : undefined;
  return { values, shape: shapeOf(reply), exact: reply.headers["x-exact"] === "exact", bins };
}

/**
 * @param {Reply} reply
 * @returns {string}
 */
function refusalOf(reply) {
  const text = new TextDecoder().decode(reply.bytes);
  try {
    return String(JSON.parse(text).error);
  } catch {
    return text.trim() || `status ${reply.status}`;
  }
}

// The card beside a head that is pointed at: its kind and why, its numbers, its strongest pairs.

import { fill, h } from "./dom.js";
import { inDigits } from "./colour.js";
import { plainName } from "./choices.js";
import { kindOf, numberNames, numberOf, shownNumber } from "./headmodel.js";
import { kindBadge } from "./kinds.js";
import { drawThumb } from "./thumbs.js";
import { placeLabel } from "./frames.js";
import { axisTokens, namedAt } from "./tokens.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./headmodel.js").Head} Head
 * @typedef {import("./client.js").Numbers} Numbers
 * @typedef {import("./client.js").Top} Top
 */

const cardAfter = 250; // milliseconds of pointing before the strongest pairs are asked for
const cardMostRows = 16384; // queries of which they are asked

/** One card, moved from head to head. */
export class HeadCard {
  /** @param {Page} page @param {import("./thumbs.js").Thumbs} thumbs */
  constructor(page, thumbs) {
    this.page = page;
    this.thumbs = thumbs;
    this.element = h("div", { class: "pl-head-card", "aria-hidden": "true", hidden: true });
    this.pairs = h("ul", {});
    this.timer = 0;
    /** @type {AbortController | null} */
    this.flight = null;
    /** @type {Map<string, string[]>} */
    this.known = new Map();
  }

  hide() {
    clearTimeout(this.timer);
    this.flight?.abort();
    this.element.hidden = true;
  }

  /**
   * @param {Head} head
   * @param {Numbers | null} numbers
   * @param {{record: string, sequence: number}} of
   * @param {DOMRect} beside
   * @param {import("./thumbs.js").ThumbsLook | null} look
   */
  show(head, numbers, of, beside, look) {
    this.hide();
    const maps = this.thumbs.of(head.layer);
    const canvas = maps && look ? h("canvas", {}) : null;
    if (canvas && maps && look) drawThumb(canvas, maps, head.place, look);
    if (canvas && maps && maps.shape[2] < 96) canvas.classList.add("pl-pixels");
    fill(this.pairs);
    fill(
      this.element,
      h("div", { class: "pl-row" }, h("b", {}, `layer ${head.layer.number} · head ${head.number}`), numbers ? kindBadge(kindOf(numbers, head, "without").kind) : null),
      h("p", { class: "pl-faint" }, `${plainName(head.layer.name, 50)} · ${head.layer.role}`),
      h("div", { class: "pl-head-card-body" }, canvas, h("div", {}, numbers ? cardKinds(numbers, head) : null, numbers ? cardNumbers(numbers, head) : null)),
      this.pairs,
    );
    this.element.hidden = false;
    this.place(beside);
    this.timer = window.setTimeout(() => this.strongest(head, of, beside), cardAfter);
  }

  /** @param {DOMRect} beside */
  place(beside) {
    const box = /** @type {Element} */ (this.element.offsetParent ?? this.element.parentElement).getBoundingClientRect();
    const [width, height] = [this.element.offsetWidth, this.element.offsetHeight];
    const left = Math.min(Math.max(beside.left - box.left, 4), Math.max(box.width - width - 4, 4));
    const below = beside.bottom + 10 - box.top;
    const above = beside.top - 10 - height - box.top; // beside the row, so that its other heads stay in sight
    const top = below + height <= box.height ? below : above >= 0 ? above : Math.max(box.height - height - 4, 4);
    Object.assign(this.element.style, { left: `${left}px`, top: `${top}px` });
  }

  /**
   * @param {Head} head
   * @param {{record: string, sequence: number}} of
   * @param {DOMRect} beside
   */
  async strongest(head, of, beside) {
    if (!head.layer.top || head.layer.q_len > cardMostRows) return;
    const name = `${of.record} ${of.sequence} ${head.id} ${head.layer.q_len}`;
    const flight = (this.flight = new AbortController());
    try {
      if (!this.known.has(name)) this.known.set(name, await this.pairsOf(head, of, flight.signal));
    } catch {
      return; // the card stands without them; the views that are made of them say why there are none
    }
    if (flight.signal.aborted || this.element.hidden) return;
    fill(this.pairs, h("li", { class: "pl-faint" }, "strongest"), (this.known.get(name) ?? []).map((text) => h("li", {}, text)));
    this.place(beside);
  }

  /**
   * @param {Head} head
   * @param {{record: string, sequence: number}} of
   * @param {AbortSignal} signal
   * @returns {Promise<string[]>}
   */
  async pairsOf(head, of, signal) {
    const place = { ...of, layer: head.layer.number, heads: String(head.place) };
    const [top, tokens] = await Promise.all([this.page.client.top(place, signal), this.page.tokens(of.record, of.sequence)]);
    const record = this.page.record({ record: of.record });
    const [queries, keys] = /** @type {const} */ (["queries", "keys"]).map((axis) => ({
      ...axisTokens(head.layer, tokens, axis),
      place: (/** @type {number} */ index) => (record ? placeLabel(record, head.layer, axis, index, of.sequence) : null),
    }));
    return strongestPairs(top, 3).map(
      ({ query, key, log }) => `${namedAt(queries, query, 16)} (${queries.offset + query}) → ${namedAt(keys, key, 16)} (${keys.offset + key}) ${inDigits(Math.exp(log))}`,
    );
  }
}

/**
 * The strongest of all pairs, among the strongest of each query.
 * @param {Top} top
 * @param {number} count
 * @returns {{query: number, key: number, log: number}[]}
 */
export function strongestPairs(top, count) {
  /** @type {{query: number, key: number, log: number}[]} */
  const best = [];
  for (let i = 0; i < top.keys.length; i++) {
    const log = top.logs[i];
    if (top.keys[i] < 0 || Number.isNaN(log) || (best.length === count && log <= best[count - 1].log)) continue;
    const at = best.findIndex((one) => one.log < log);
    best.splice(at < 0 ? best.length : at, 0, { query: Math.floor(i / top.count), key: top.keys[i], log });
    best.length = Math.min(best.length, count);
  }
  return best;
}

/** @param {Numbers} numbers @param {Head} head */
function cardKinds(numbers, head) {
  const [whole, beyond] = [kindOf(numbers, head, "with"), kindOf(numbers, head, "without")];
  const line = (/** @type {string} */ where, /** @type {{kind: string, because: string}} */ { kind, because }) => h("p", {}, `${where}: `, h("b", {}, kind), because ? `, ${because}` : "");
  return [line("beyond the sink", beyond), line("as a whole", whole)];
}

/** @param {Numbers} numbers @param {Head} head */
function cardNumbers(numbers, head) {
  const rows = numberNames(numbers).map((name) => {
    const paired = numbers.paired.includes(name);
    const cells = paired ? [numberOf(numbers, head, name, "with"), numberOf(numbers, head, name, "without")] : [numberOf(numbers, head, name, "with")];
    return h("tr", {}, h("th", { scope: "row", title: numbers.titles[name] }, name.replaceAll("_", " ")), cells.map((value) => h("td", {}, shownNumber(value))), paired ? null : h("td", {}));
  });
  if (!rows.length) return null;
  return h("table", {}, h("thead", {}, h("tr", {}, h("th", {}), h("th", { scope: "col" }, "whole"), h("th", { scope: "col" }, "no sink"))), h("tbody", {}, rows));
}

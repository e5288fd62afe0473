// What text, image and two texts have in common: an axis or two of tokens in panes, the colours of what is shown of them,
// and words about it.

import { isDark } from "./app.js";
import { Attending, rankOf, strongest } from "./attending.js";
import { axisTexts, placeName, placeText } from "./axistexts.js";
import { inDigits, placeOn, scaleOf } from "./colour.js";
import { FIXED_COLOURS, inkOf, inkPlace } from "./ink.js";
import { ordinal, wordsNext } from "./words.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./app.js").Chosen} Chosen
 * @typedef {import("./attending.js").Direction} Direction
 * @typedef {import("./attending.js").Shown} Shown
 * @typedef {import("./axistexts.js").AxisTexts} AxisTexts
 * @typedef {import("./textpane.js").Look} Look
 */

/** Most fixed tokens that are told apart by underlines of their own. */
export const READER_EACH = 4;

export class Reader {
  /**
   * @param {Page} page
   * @param {() => void} onshown what is shown has changed
   * @param {() => void} ontokens the tokens have changed
   */
  constructor(page, onshown, ontokens) {
    this.page = page;
    this.onshown = onshown;
    this.ontokens = ontokens;
    this.attending = new Attending(page, () => this.changed(), () => this.mark());
    /** @type {HTMLElement | null} the view's, which says whether all is drawn */
    this.element = null;
    this.waiting = false;
    this.more = false; // whether the view itself waits for something
    /** @type {Chosen | null} */
    this.chosen = null;
    /** @type {AxisTexts | null} */
    this.queries = null;
    /** @type {AxisTexts | null} */
    this.keys = null;
    this.problem = "";
    this.scale = scaleOf({}, () => []);
    this.asked = "";
    /** @type {Promise<void>} */
    this.tokensHere = Promise.resolve();
  }

  destroy() {
    this.attending.destroy();
  }

  /** @param {import("./state.js").State} state @param {Set<string>} changed */
  update(state, changed) {
    this.chosen = this.page.chosen(state);
    this.attending.update(state);
    if (changed.has("info") && this.problem) this.asked = "";
    const asked = this.chosen ? `${this.chosen.record.id} ${this.chosen.layer.number} ${this.chosen.layer.q_len} ${this.chosen.sequence}` : "";
    if (asked !== this.asked) {
      this.asked = asked;
      this.tokensHere = this.fetchTokens(asked);
    }
  }

  /** @param {string} asked */
  async fetchTokens(asked) {
    const chosen = this.chosen;
    if (!chosen) return;
    this.waiting = true;
    this.mark();
    let tokens = /** @type {import("./client.js").Tokens} */ ({ own: null, source: null, own_special: [], source_special: [] });
    this.problem = "";
    try {
      tokens = await this.page.tokens(chosen.record.id, chosen.sequence);
    } catch (error) {
      this.problem = `The tokens are not known: ${error instanceof Error ? error.message : error}. Positions are shown instead.`;
    }
    if (asked !== this.asked) return;
    this.waiting = false;
    this.queries = axisTexts(chosen, tokens, "queries");
    this.keys = axisTexts(chosen, tokens, "keys", this.isCross ? undefined : Math.max(chosen.layer.k_len, chosen.layer.query_offset + chosen.layer.q_len));
    this.ontokens();
    this.changed();
  }

  get isCross() {
    return this.chosen?.layer.role === "cross";
  }

  get shown() {
    return this.attending.shown;
  }

  /** What is chosen to be seen, as the axis that a direction is chosen on. @param {Direction} direction @returns {AxisTexts | null} */
  axisOf(direction) {
    return direction === "reads" ? this.queries : this.keys;
  }

  changed() {
    const shown = this.shown;
    const several = this.isEach ? (shown?.each ?? []) : shown ? [shown.joined] : [];
    const state = this.page.state.state;
    this.scale = scaleOf({ ...state, scale: state.scale ?? "sqrt" }, () => several);
    this.ink = inkOf(this.page.state.get("colours", "viridis"), isDark(this.page.root));
    this.onshown();
    this.mark();
  }

  /** Say on the view's element whether all is drawn. */
  mark() {
    const busy = this.waiting || this.attending.busy || this.more;
    this.element?.setAttribute("aria-busy", String(busy));
    if (this.element) this.element.dataset.drawn = !this.queries ? "nothing" : busy ? "coarse" : "final";
  }

  /** Whether the view itself waits for something more. @param {boolean} more */
  expect(more) {
    this.more = more;
    this.mark();
  }

  /** Whether several fixed tokens are told apart. */
  get isEach() {
    return this.page.state.get("several") === "each" && (this.shown?.places.length ?? 0) > 1;
  }

  /**
   * How a place looks, of the axis that is coloured: keys where it is shown what queries read, else queries.
   * @param {number} index
   * @returns {Look}
   */
  look(index) {
    const shown = this.shown;
    if (!shown) return {};
    if (index < 0 || index >= shown.joined.length) return { marks: " pl-beyond" };
    const log = shown.joined[index];
    if (this.isEach) return { bands: this.bands(shown, index) };
    const place = inkPlace(log, this.scale);
    if (place < 0) return Number.isNaN(log) ? { marks: " pl-unknown" } : {};
    return { back: this.ink?.back[place], ink: this.ink?.ink[place] };
  }

  /** @param {Shown} shown @param {number} index */
  bands(shown, index) {
    const bands = shown.each.slice(0, READER_EACH).map((logs, i) => {
      const alpha = logs[index] > -Infinity ? 0.12 + 0.88 * placeOn(logs[index], this.scale) : 0;
      const colour = `rgba(${FIXED_COLOURS[i].join(",")},${alpha.toFixed(2)})`;
      return `linear-gradient(${colour},${colour})`;
    });
    return bands.join(",");
  }

  /** What is shown, in a sentence. */
  headline() {
    const shown = this.shown;
    if (!shown) return this.attending.message;
    const axis = this.axisOf(shown.direction);
    if (!axis) return "";
    const some = shown.places.slice(0, 3).map((place) => placeName(axis, place)).join(", ");
    const more = shown.places.length > 3 ? ` and ${shown.places.length - 3} more` : "";
    const mean = shown.places.length > 1 && !this.isEach ? ", on average" : "";
    const layer = this.chosen?.layer;
    const next = layer && shown.direction === "reads" && shown.places.length === 1 ? wordsNext(layer, axis.tokens, axis.offset + shown.places[0]) : "";
    const names = `${some}${more}`;
    const words = shown.direction === "read" ? `Who reads ${names}` : `What ${names} ${shown.places.length > 1 ? "read" : "reads"}${next && `, before ‘${next}’`}`;
    const limited = shown.known === null ? "" : ` Only the ${shown.known} strongest keys of each query are known.`;
    return `${words}${mean}.${limited} ${this.attending.message}`.trim();
  }

  /** The weight of one place and its rank, in words. @param {number} index */
  weightAt(index) {
    const shown = this.shown;
    if (!shown || index < 0 || index >= shown.joined.length) return "";
    if (this.isEach) return `weights ${shown.each.slice(0, READER_EACH).map((logs) => inDigits(Math.exp(logs[index]))).join(", ")}`;
    const log = shown.joined[index];
    if (Number.isNaN(log)) return shown.known === null ? "no weight: padding" : "weight not known";
    const isRead = shown.direction === "reads";
    const several = shown.places.length > 1;
    if (log === -Infinity) return "weight 0, not read";
    const { rank, of } = rankOf(shown.joined, index);
    const counted = isRead ? `keys that ${several ? "they read" : "it reads"}` : `queries that read ${several ? "them" : "it"}`;
    return `weight ${inDigits(Math.exp(log))}, ${ordinal(rank)} of the ${of} ${counted}${shown.known === null ? "" : ", of those that are known"}`;
  }

  /**
   * The strongest places of what is shown.
   * @param {(index: number) => void} go
   * @param {Float32Array | undefined} [logs]
   * @param {Direction} [direction]
   * @returns {import("./strongest.js").Strong[]}
   */
  strong(go, logs = this.shown?.joined, direction = this.shown?.direction ?? "reads") {
    const axis = this.axisOf(direction === "reads" ? "read" : "reads");
    if (!logs || !axis) return [];
    return strongest(logs, 12).map((index) => ({ text: placeText(axis, index), position: axis.offset + index, log: logs[index], go: () => go(index) }));
  }

  /** The line of Python that gives what is shown, or will be as soon as it is here. */
  async python() {
    await this.tokensHere;
    const chosen = this.chosen;
    if (!chosen) return "";
    const shown = this.attending.wanted();
    const places = shown ? `[${shown.places.join(", ")}]` : "";
    const axes = shown ? (shown.direction === "reads" ? `queries=${places}, ` : `keys=${places}, `) : "";
    const heads = chosen.heads.length === chosen.layer.heads ? "" : `heads=[${chosen.heads.join(", ")}]`;
    const over = chosen.heads.length === 1 ? "" : chosen.place.over === "max" ? ".amax(0)" : ".mean(0)";
    const inside = `${axes}${heads}`.replace(/, $/, "");
    return `record[${JSON.stringify(chosen.layer.name)}].weights(${inside})[${chosen.sequence}]${over}`;
  }
}

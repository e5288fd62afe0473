// One map of a scene: the place that it shows, its tiles, and what stands along its axes.

import { h } from "./dom.js";
import { MapPane } from "./pane.js";
import { placeLabel } from "./frames.js";
import { RowStore } from "./rows.js";
import { TileSource } from "./source.js";
import { chosenStrips } from "./strips.js";
import { axisTokens } from "./tokens.js";
import { placeTitle } from "./words.js";

/**
 * @typedef {import("./app.js").Chosen} Chosen
 * @typedef {import("./pane.js").Side} Side
 * @typedef {import("./strips.js").Strip} Strip
 * @typedef {"queries" | "keys"} AxisName
 * @typedef {{wheels: () => boolean, resized: () => void, redraw: () => void}} PanelHooks
 */

const panelStrips = 32; // that are kept

/** @param {string} title @returns {Side} */
function emptySide(title) {
  return { title, text: { texts: null, offset: 0, special: new Set(), place: () => null }, strips: [], segments: [] };
}

export class MapPanel {
  /**
   * @param {import("./app.js").Page} page
   * @param {import("./tiles.js").TileStore} store
   * @param {string} label
   * @param {import("./gestures.js").Meaning} meaning
   * @param {PanelHooks} hooks
   * @param {number} [kept] textures that are kept between frames
   */
  constructor(page, store, label, meaning, hooks, kept) {
    this.page = page;
    this.store = store;
    this.label = label;
    this.redraw = hooks.redraw;
    this.rows = new RowStore(page.client, hooks.redraw);
    this.pane = new MapPane(label, meaning, hooks, kept);
    this.heading = h("h2", { class: "pl-map-panel-title" });
    this.message = h("p", { class: "pl-map-message", hidden: true });
    this.element = h("section", { class: "pl-map-panel", "aria-label": label }, this.heading, h("div", { class: "pl-map-panel-body" }, this.pane.element, this.message));
    /** @type {Chosen | null} */
    this.chosen = null;
    /** @type {TileSource | null} */
    this.source = null;
    this.axesOf = "";
    /** @type {Promise<void>} once the axes' texts are here, or refused */
    this.named = Promise.resolve();
    this.queries = emptySide("queries");
    this.keys = emptySide("keys");
    /** @type {Map<string, Strip>} */
    this.kept = new Map();
    /** @type {Strip | null} what every key receives from all queries, where that was read */
    this.received = null;
  }

  /**
   * @param {Chosen} chosen
   * @param {import("./state.js").State} state
   */
  choose(chosen, state) {
    this.chosen = chosen;
    this.source = new TileSource(this.store, chosen, this.page.info.left_out.length > 0);
    this.heading.textContent = placeTitle(chosen);
    const { record, layer, sequence } = chosen;
    const axesOf = `${record.id} ${layer.number} ${layer.q_len} ${layer.k_len} ${sequence}`;
    if (axesOf !== this.axesOf) this.name(chosen, axesOf);
    const strips = chosenStrips(layer, state.strips).map((info) => this.strip(chosen, info));
    this.queries.strips = strips.filter((strip) => strip.info.axis === "queries");
    this.keys.strips = strips.filter((strip) => strip.info.axis === "keys");
    const received = layer.strips.find(({ name }) => name === "received");
    this.received = received ? this.strip(chosen, received) : null;
  }

  /**
   * Put texts along the axes, as soon as they are here.
   * @param {Chosen} chosen
   * @param {string} axesOf
   */
  name(chosen, axesOf) {
    this.axesOf = axesOf;
    const { record, layer, sequence } = chosen;
    for (const axis of /** @type {AxisName[]} */ (["queries", "keys"])) {
      const side = this[axis];
      const place = (/** @type {number} */ index) => placeLabel(record, layer, axis, index, sequence);
      side.text = { texts: null, offset: axis === "queries" ? layer.query_offset : 0, special: new Set(), place };
      side.segments = segmentsOf(chosen, axis);
    }
    this.named = this.page.tokens(record.id, sequence).then(
      (tokens) => {
        if (this.axesOf !== axesOf) return;
        for (const axis of /** @type {AxisName[]} */ (["queries", "keys"])) {
          const { place } = this[axis].text;
          this[axis].text = { ...axisTokens(layer, tokens, axis), place };
        }
        this.pane.gutters = null;
        this.redraw();
      },
      () => {}, // positions stay; the shell says that nobody answers
    );
  }

  /**
   * @param {Chosen} chosen
   * @param {import("./client.js").StripInfo} info
   * @returns {Strip}
   */
  strip({ place }, info) {
    const name = [place.record, place.layer, place.heads, place.over, place.sequence, info.name].join(" ");
    const kept = this.kept.get(name);
    if (kept) return kept;
    /** @type {Strip} */
    const strip = { info, values: null, refused: null };
    this.kept.set(name, strip);
    if (this.kept.size > panelStrips) this.kept.delete(/** @type {string} */ (this.kept.keys().next().value));
    this.page.client.strip(place, info.name).then(
      (answer) => Object.assign(strip, { values: answer.values }),
      (error) => {
        strip.refused = error instanceof Error ? error.message : String(error);
        this.kept.delete(name);
      },
    ).finally(this.redraw);
    return strip;
  }

  destroy() {
    this.axesOf = "";
    this.rows.destroy();
    this.pane.destroy();
  }
}

/**
 * The named ranges of tokens that lie on an axis, in its own places.
 * @param {Chosen} chosen
 * @param {AxisName} axis
 * @returns {import("./axes.js").Segment[]}
 */
export function segmentsOf({ record, layer, sequence }, axis) {
  const isOwn = layer.tokens[axis] === "own" || (axis === "queries" && layer.tokens[axis] === null) || layer.role !== "cross";
  if (!isOwn) return [];
  const length = axis === "queries" ? layer.q_len : layer.k_len;
  const offset = axis === "queries" ? layer.query_offset : 0;
  const found = [];
  for (const [name, spans] of Object.entries(record.segments)) {
    const span = spans[spans.length > 1 ? sequence : 0];
    if (!span) continue;
    const start = Math.max(0, span[0] - offset);
    const stop = Math.min(length, (span[1] ?? Infinity) - offset);
    if (stop > start) found.push({ name, start, stop });
  }
  return found;
}

// The text view: tokens as running text, coloured by what a chosen token reads or by who reads it.

import { colourChoices, stateChoice, toolbar } from "./controls.js";
import { crossHeadings } from "./crosspicture.js";
import { fill, h } from "./dom.js";
import { Finder } from "./finder.js";
import { listenKeys } from "./keys.js";
import { READER_EACH, Reader } from "./reader.js";
import { FIXED_COLOURS, inkLegend } from "./ink.js";
import { numbersOf } from "./state.js";
import { callsOf, stepRows, stepSlider } from "./steps.js";
import { strongestList } from "./strongest.js";
import { placeName } from "./axistexts.js";
import { textFigure } from "./textfigure.js";
import { TextPane } from "./textpane.js";

/**
 * @typedef {import("./attending.js").Direction} Direction
 * @typedef {{pane: TextPane, axis: "queries" | "keys" | "both", element: HTMLElement}} TextSide
 */

/**
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function textView(page) {
  return new TextView(page);
}

class TextView {
  /** @param {import("./app.js").Page} page */
  constructor(page) {
    this.page = page;
    this.reader = new Reader(page, () => this.paint(), () => this.showTokens());
    /** @type {TextSide[]} */
    this.sides = [];
    /** @type {{axis: string, token: number} | null} */
    this.pointer = null;
    /** @type {AbortController | null} */
    this.asking = null;
    this.panes = h("div", { class: "pl-text-panes" });
    this.status = h("p", { class: "pl-text-status" });
    this.under = h("p", { class: "pl-text-under pl-faint" });
    this.legend = inkLegend();
    this.reads = strongestList();
    this.others = strongestList();
    this.steps = stepSlider((row) => this.goTo("reads", row));
    this.finder = new Finder((text) => page.state.set({ find: text || null }, { replace: true }), () => this.paintPanes());
    this.controls = this.makeControls();
    this.element = h(
      "div",
      { class: "pl-text" },
      this.controls.element,
      this.steps.element,
      this.status,
      h("div", { class: "pl-text-body" }, this.panes, h("aside", { class: "pl-text-side", "aria-label": "strongest weights", tabIndex: 0 }, this.reads.element, this.others.element)),
      h("div", { class: "pl-text-foot" }, this.legend.element, this.under),
    );
    this.otherTimer = 0;
    this.stopKeys = listenKeys(page.root, (event) => this.key(event));
    this.reader.element = this.element;
  }

  makeControls() {
    const state = this.page.state;
    const direction = stateChoice(state, "direction", "Colour by", [["reads", "what it reads"], ["read", "who reads it"]]);
    direction.element.querySelector("select")?.addEventListener("change", (event) => this.turn(event), true);
    const several = stateChoice(state, "several", "Fix", [["", "one token"], ["mean", "several: mean"], ["each", "several: each"]]);
    const colours = colourChoices(state);
    const position = h("input", { type: "text", inputMode: "numeric", class: "pl-text-goto", placeholder: "position", "aria-label": "go to a position" });
    const go = () => {
      const number = Number(position.value.trim() || NaN);
      if (Number.isInteger(number)) this.goToPosition(number);
    };
    position.addEventListener("keydown", (event) => event.key === "Enter" && go());
    const going = h("span", { class: "pl-text-finding" }, position, h("button", { type: "button", onclick: go }, "Go"));
    const element = toolbar("text", [direction.element, this.finder.element], [several.element, colours.elements, going]);
    return { element, position, direction, update: (/** @type {import("./state.js").State} */ current) => [direction, several, colours].forEach((one) => one.update(current, this.page.chosen(current))) };
  }

  /** @param {import("./state.js").State} state @param {Set<string>} changed */
  update(state, changed) {
    this.controls.update(state);
    this.reader.update(state, changed);
    this.controls.direction.element.hidden = this.reader.isCross;
    if (changed.has("find")) this.finder.update(state.find ?? "", this.finder.texts);
    if (["theme", "colours", "scale", "range", "several", "over"].some((name) => changed.has(name))) this.reader.changed();
  }

  destroy() {
    this.stopKeys();
    clearTimeout(this.otherTimer);
    this.asking?.abort();
    this.steps.stop();
    this.reader.destroy();
    for (const side of this.sides) side.pane.destroy();
  }

  /** The tokens are there: panes of them, one where queries and keys are one text. */
  showTokens() {
    const { queries, keys, isCross, chosen } = this.reader;
    if (!queries || !keys || !chosen) return;
    const headings = crossHeadings(chosen.layer);
    const wanted = /** @type {[TextSide["axis"], string][]} */ (isCross ? [["queries", headings[0]], ["keys", headings[1]]] : [["both", "Text"]]);
    if (wanted.join() !== this.sides.map((side) => [side.axis, side.pane.label]).join()) {
      for (const side of this.sides) side.pane.destroy();
      this.sides = wanted.map(([axis, words]) => this.makeSide(axis, words));
      fill(this.panes, this.sides.map((side) => side.element));
    }
    for (const side of this.sides) {
      const axis = side.axis === "queries" ? queries : keys;
      side.pane.setTokens(axis.texts, axis.chips);
    }
    const fixed = this.reader.attending.fixed[0];
    const start = fixed !== undefined ? { direction: this.reader.attending.direction, index: fixed } : this.reader.attending.point ?? this.firstPoint();
    this.reader.attending.pointAt(start.direction, start.index);
    this.reveal(start.direction, start.index);
    this.finder.update(this.page.state.get("find"), this.sides.map((side) => ({ pane: side.pane, texts: (side.axis === "queries" ? queries : keys).texts })));
  }

  /** What is shown before anybody points: the first step of a generation, else a token in the midst that reads a good deal. */
  firstPoint() {
    const { layer, record } = /** @type {import("./app.js").Chosen} */ (this.reader.chosen);
    const direction = this.reader.isCross ? "reads" : this.reader.attending.direction;
    const [step] = direction === "reads" ? stepRows(callsOf(record, layer), layer.q_len) : [];
    if (step !== undefined) return { direction, index: step };
    const rows = direction === "reads" ? layer.q_len : layer.k_len;
    return { direction: /** @type {Direction} */ (direction), index: Math.min(rows - 1, Math.max(Math.floor(rows / 2), Math.min(rows - 1, 20))) };
  }

  /** @param {TextSide["axis"]} axis @param {string} words @returns {TextSide} */
  makeSide(axis, words) {
    const pane = new TextPane({
      label: words,
      onpoint: (token, by) => this.pointed(axis, token, by),
      onchoose: (token, add) => this.choose(axis, token, add),
    });
    const element = axis === "both" ? pane.element : h("section", { class: "pl-text-half" }, h("h2", {}, words), pane.element);
    return { pane, axis, element };
  }

  /** Which direction and index a token of a pane stands for. @param {string} axis @param {number} token @returns {{direction: Direction, index: number}} */
  placeOf(axis, token) {
    const direction = axis === "queries" ? "reads" : axis === "keys" ? "read" : this.reader.attending.direction;
    const offset = axis === "both" && direction === "reads" ? (this.reader.chosen?.layer.query_offset ?? 0) : 0;
    return { direction: /** @type {Direction} */ (direction), index: token - offset };
  }

  /** The side and token of an index of an axis. @param {"queries" | "keys"} axis @param {number} index */
  tokenOf(axis, index) {
    const side = this.sides.find((one) => one.axis === axis) ?? this.sides[0];
    const offset = side?.axis === "both" && axis === "queries" ? (this.reader.chosen?.layer.query_offset ?? 0) : 0;
    return { side, token: index + offset };
  }

  /** @param {string} axis @param {number} token @param {"pointer" | "key"} by */
  pointed(axis, token, by) {
    const { direction, index } = this.placeOf(axis, token);
    this.pointer = { axis, token };
    if (index < 0) this.page.announce("This token was not observed as a query.");
    this.reader.attending.pointAt(direction, index);
    this.tell();
    if (by === "key") this.page.announce(this.under.textContent ?? "");
  }

  /** @param {string} axis @param {number} token @param {boolean} add */
  choose(axis, token, add) {
    const { direction, index } = this.placeOf(axis, token);
    this.reader.attending.toggle(direction, index, add);
    const words = this.reader.attending.fixed.includes(index) ? "fixed" : "free";
    this.page.announce(`${this.sides.find((side) => side.axis === axis)?.pane.shown[token] ?? ""}: ${words}`);
  }

  /** What is chosen stays chosen when the other direction is asked for. @param {Event} event */
  turn(event) {
    const { layer } = /** @type {import("./app.js").Chosen} */ (this.reader.chosen);
    const to = /** @type {HTMLSelectElement} */ (event.target).value;
    const shift = to === "read" ? layer.query_offset : -layer.query_offset;
    const fixed = numbersOf(this.page.state.get("fixed")).map((one) => one + shift).filter((one) => one >= 0);
    const point = this.reader.attending.point;
    if (point) this.reader.attending.point = { direction: to === "read" ? "read" : "reads", index: Math.max(0, point.index + shift) };
    event.stopImmediatePropagation();
    this.page.state.set({ direction: to === "read" ? "read" : null, fixed: fixed.join(",") || null });
  }

  /** Show a token of a direction, and bring it into sight: a step, a place of the list. @param {Direction} direction @param {number} index */
  goTo(direction, index) {
    const fixed = direction === "reads" && this.steps.element.hidden === false;
    if (fixed) this.page.state.set({ fixed: String(index), direction: null, several: null }, { replace: true });
    else this.reader.attending.pointAt(direction, index);
    this.reveal(direction, index);
  }

  /** @param {Direction} direction @param {number} index */
  reveal(direction, index) {
    this.show(direction === "reads" ? "queries" : "keys", index);
  }

  /** Bring a place into sight, under the cursor. @param {"queries" | "keys"} axis @param {number} index */
  show(axis, index) {
    const { side, token } = this.tokenOf(axis, index);
    if (!side) return;
    const [first, last] = side.pane.visibleTokens();
    side.pane.cursor = Math.max(0, Math.min(token, side.pane.shown.length - 1));
    if (token < first || token >= last) side.pane.scrollTo(token, "center");
    side.pane.markCursor();
    this.pointer = { axis: side.axis, token };
    this.tell();
  }

  /** @param {number} position */
  goToPosition(position) {
    const side = this.sides.find((one) => one.pane.element.contains(document.activeElement)) ?? this.sides[0];
    const axis = side.axis === "queries" ? this.reader.queries : this.reader.keys;
    if (!axis || position < axis.offset || position >= axis.offset + axis.texts.length) {
      this.page.announce(`there is no position ${position}`);
      this.under.textContent = `There is no position ${position}: they go from ${axis?.offset ?? 0} to ${(axis?.offset ?? 0) + (axis?.texts.length ?? 0) - 1}.`;
      return;
    }
    side.pane.pointAt(position - axis.offset, "key");
    side.pane.element.focus({ preventScroll: true });
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.ctrlKey || event.altKey) return;
    if (event.key === "Escape") this.page.state.set({ fixed: null });
    else if (event.key === "/") this.finder.field.focus();
    else if (event.key === "g") this.controls.position.focus();
    else if (event.key === "n" || event.key === "N") this.finder.next(event.key === "n" ? 1 : -1);
    else return;
    event.preventDefault();
  }

  /** What is shown has changed. */
  paint() {
    const { chosen, shown } = this.reader;
    if (!chosen || !this.sides.length) {
      fill(this.status, chosen ? "asking for the tokens …" : "The record holds no layer yet.");
      return;
    }
    this.paintPanes();
    this.legend.element.hidden = !shown || this.reader.isEach;
    if (shown && this.reader.ink) this.legend.show(this.reader.ink, this.reader.scale);
    fill(this.status, this.headline());
    this.paintLists();
    this.paintSteps();
    this.tell();
  }

  /** @returns {import("./dom.js").Child[]} */
  headline() {
    const shown = this.reader.shown;
    const problem = this.reader.problem ? `${this.reader.problem} ` : "";
    if (!shown || !this.reader.isEach) return [problem + (this.reader.headline() || "Point at a token to see what it reads; click to fix it.")];
    const axis = this.reader.axisOf(shown.direction);
    const names = shown.places.slice(0, READER_EACH).map((place, i) =>
      h("span", { class: "pl-text-key" }, h("span", { class: "pl-swatch", style: { backgroundColor: `rgb(${FIXED_COLOURS[i].join(",")})` } }), axis ? placeName(axis, place) : String(place)),
    );
    const more = shown.places.length > READER_EACH ? ` The first ${READER_EACH} of ${shown.places.length} are drawn.` : "";
    return [shown.direction === "reads" ? "What each reads: " : "Who reads each: ", ...names, more];
  }

  paintPanes() {
    const { shown, chosen } = this.reader;
    const coloured = shown?.direction === "read" ? "queries" : "keys";
    const made = chosen ? callsOf(chosen.record, chosen.layer)[1] : undefined;
    for (const side of this.sides) {
      const offset = side.axis === "both" && coloured === "queries" ? (chosen?.layer.query_offset ?? 0) : 0;
      const isColoured = side.axis === "both" || side.axis === coloured;
      const special = (side.axis === "queries" ? this.reader.queries : this.reader.keys)?.special;
      const firstMade = made === undefined ? Infinity : side.axis === "queries" ? made : side.axis === "both" ? made + (chosen?.layer.query_offset ?? 0) : Infinity;
      side.pane.paint((token) => {
        const look = shown && isColoured ? this.reader.look(token - offset) : {};
        const marks = `${look.marks ?? ""}${this.marksOf(side, token)}${special?.has(token) ? " pl-special" : ""}${token >= firstMade ? " pl-made" : ""}`;
        return { ...look, marks };
      });
    }
  }

  /** @param {TextSide} side @param {number} token */
  marksOf(side, token) {
    const { shown } = this.reader;
    let marks = this.finder.marked.get(side.pane)?.has(token) ? " pl-found" : "";
    if (!shown) return marks;
    const { direction, index } = side.axis === "both" ? { direction: shown.direction, index: token - (shown.direction === "reads" ? (this.reader.chosen?.layer.query_offset ?? 0) : 0) } : this.placeOf(side.axis, token);
    if (direction === shown.direction && shown.places.includes(index)) marks += shown.fixed ? " pl-fixed" : " pl-pointed";
    return marks;
  }

  paintLists() {
    const shown = this.reader.shown;
    clearTimeout(this.otherTimer);
    this.asking?.abort();
    this.reader.expect(false);
    const go = (/** @type {"queries" | "keys"} */ axis) => (/** @type {number} */ index) => this.show(axis, index);
    if (!shown) {
      this.reads.show("", [], this.reader.attending.busy ? "…" : "No weights to list.");
      this.others.show("", []);
      return;
    }
    const words = { reads: "Reads most", read: "Is read most by" };
    const mean = shown.places.length > 1 ? ", on average" : "";
    this.reads.show(words[shown.direction] + mean, this.reader.strong(go(shown.direction === "reads" ? "keys" : "queries")), "");
    if (this.reader.isCross) return this.others.show("", []);
    const opposite = shown.direction === "reads" ? "read" : "reads";
    this.others.show(this.otherHeading(opposite, shown), [], "…");
    this.reader.expect(true);
    this.otherTimer = window.setTimeout(() => this.askOthers(opposite, shown), shown.fixed ? 30 : 250);
  }

  /** @param {Direction} direction @param {import("./attending.js").Shown} shown */
  otherHeading(direction, shown) {
    const axis = this.reader.axisOf(shown.direction);
    const last = shown.places[shown.places.length - 1];
    if (shown.places.length > 1 && axis) return `${placeName(axis, last)} ${direction === "reads" ? "reads most" : "is read most by"}`;
    return direction === "reads" ? "Reads most" : "Is read most by";
  }

  /** The same token the other way round. @param {Direction} direction @param {import("./attending.js").Shown} shown */
  async askOthers(direction, shown) {
    const layer = /** @type {import("./app.js").Chosen} */ (this.reader.chosen).layer;
    const index = shown.places[shown.places.length - 1] + (direction === "read" ? layer.query_offset : -layer.query_offset);
    const heading = this.otherHeading(direction, shown);
    if (index < 0 || index >= this.reader.attending.length(direction)) {
      this.reader.expect(false);
      return this.others.show(heading, [], "It was not observed as a query.");
    }
    const asking = (this.asking = new AbortController());
    try {
      const logs = await this.reader.attending.logs(direction, index, asking.signal);
      if (asking.signal.aborted) return;
      const items = this.reader.strong((place) => this.show(direction === "reads" ? "keys" : "queries", place), logs, direction);
      const known = this.reader.attending.known;
      const limited = this.reader.chosen?.layer.exact || known === null ? "" : `among the ${known} strongest keys of each query`;
      this.others.show(heading, items, items.length ? limited : "nothing");
    } catch (error) {
      if (!asking.signal.aborted) this.others.show(heading, [], error instanceof Error ? error.message : String(error));
    } finally {
      if (!asking.signal.aborted) this.reader.expect(false);
    }
  }

  paintSteps() {
    const { chosen, shown, queries } = this.reader;
    if (!chosen || !queries) return;
    const rows = stepRows(callsOf(chosen.record, chosen.layer), chosen.layer.q_len);
    const row = shown?.direction === "reads" && shown.places.length === 1 ? shown.places[0] : null;
    this.steps.update(rows, row, (step) => {
      const isLast = rows[step] + 1 >= queries.texts.length;
      const next = isLast ? queries.after && `‘${queries.after}’` : placeName(queries, rows[step] + 1);
      return `${placeName(queries, rows[step])} reads${next ? `; ${next} comes next` : ""}`;
    });
  }

  /** The line under the text: the token pointed at, and its weight. */
  tell() {
    const pointer = this.pointer;
    const { shown, chosen } = this.reader;
    const side = this.sides.find((one) => one.axis === pointer?.axis);
    if (!pointer || !side || !chosen) return;
    const axis = side.axis === "queries" ? this.reader.queries : this.reader.keys;
    const coloured = shown?.direction === "read" ? "queries" : "keys";
    const index = pointer.token - (side.axis === "both" && coloured === "queries" ? chosen.layer.query_offset : 0);
    const weight = shown && (side.axis === "both" || side.axis === coloured) ? this.reader.weightAt(index) : "";
    const special = axis?.special.has(pointer.token) ? ", special token" : "";
    this.under.textContent = axis ? `${placeName(axis, pointer.token)}${special}${weight ? `: ${weight}` : ""}` : "";
  }

  python() {
    return this.reader.python();
  }

  /** @param {"png" | "svg"} kind */
  picture(kind) {
    return textFigure(kind, this.page, this.reader, this.sides.map((side) => side.pane), this.legend.element.hidden);
  }
}

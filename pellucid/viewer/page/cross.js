// Two texts: what reads and what is read, a token a line, with lines of weight between them. Above each other only where
// there is little room and each is a single line: lines of weight would run over the words of any more.

import { inDigits, scaleOf } from "./colour.js";
import { colourChoices, stateChoice, toolbar } from "./controls.js";
import { fill, h } from "./dom.js";
import { listenKeys } from "./keys.js";
import { crossHeadings, crossPicture } from "./crosspicture.js";
import { figureDraw } from "./figure.js";
import { FIXED_COLOURS } from "./ink.js";
import { lineStrength, Links, linksOf } from "./links.js";
import { Reader, READER_EACH } from "./reader.js";
import { textWidth } from "./marks.js";
import { strongestList } from "./strongest.js";
import { figureColours } from "./textfigure.js";
import { TextPane } from "./textpane.js";
import { placeName } from "./axistexts.js";
import { shownToken } from "./tokens.js";

/** @typedef {import("./figure.js").FigureLine} FigureLine */

const CROSS_MOST = 3000; // lines that are drawn
const CROSS_NARROW = 620; // CSS pixels under which short texts stand above each other
const CROSS_SHORT = 80; // tokens that may be one line

/**
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function crossView(page) {
  return new CrossView(page);
}

export class CrossView {
  /** @param {import("./app.js").Page} page */
  constructor(page) {
    this.page = page;
    this.reader = new Reader(page, () => this.paint(), () => this.showTokens());
    this.links = new Links(page, () => this.draw());
    this.status = h("p", { class: "pl-text-status" });
    this.under = h("p", { class: "pl-text-under pl-faint" });
    this.canvas = h("canvas", { class: "pl-cross-lines", "aria-hidden": "true" });
    this.body = h("div", { class: "pl-cross-body", onpointerleave: () => this.leave() });
    this.list = strongestList();
    this.makePanes(true);
    this.controls = this.makeControls();
    this.names = h("div", { class: "pl-cross-names", "aria-hidden": "true" });
    /** How lines are drawn: their weights' scale, and the colour of those that are looked at. */
    this.lineLook = { scale: this.reader.scale, stroke: "" };
    this.element = h(
      "div",
      { class: "pl-cross" },
      this.controls.element,
      this.status,
      h("div", { class: "pl-text-body" }, h("div", { class: "pl-cross-texts" }, this.names, this.body), h("aside", { class: "pl-text-side pl-cross-side", "aria-label": "strongest weights", tabIndex: 0 }, this.list.element)),
      h("div", { class: "pl-text-foot" }, this.under),
    );
    this.frame = 0;
    this.lineCount = 0;
    /** @type {{direction: "reads" | "read", token: number} | null} */
    this.pointer = null;
    this.pathName = "";
    this.pathMessage = "";
    /** @type {{rows: number[], keys: number[]} | null} */
    this.path = null;
    /** @type {AbortController | null} */
    this.pathAsking = null;
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(this.element);
    this.reader.element = this.element;
    this.stopKeys = listenKeys(page.root, (event) => event.key === "Escape" && page.state.set({ fixed: null }));
  }

  makeControls() {
    const state = this.page.state;
    const several = stateChoice(state, "several", "Fix", [["", "one token"], ["mean", "several: mean"], ["each", "several: each"]]);
    const path = stateChoice(state, "path", "Alignment", [["", "not drawn"], ["on", "drawn"]]);
    const colours = colourChoices(state);
    const words = h("output", { class: "pl-faint" });
    const slider = h("input", { type: "range", class: "pl-cross-slider", min: "-4", max: "0", step: "0.05", "aria-label": "least weight of a line", oninput: () => state.set({ threshold: (10 ** Number(slider.value)).toPrecision(2) }, { replace: true }) });
    const element = toolbar("two texts", [h("label", { class: "pl-choice" }, "Lines from", slider, words)], [path.element, several.element, colours.elements]);
    return {
      element,
      update: (/** @type {import("./state.js").State} */ current) => {
        [several, path, colours].forEach((one) => one.update(current, this.page.chosen(current)));
        slider.value = String(Math.log10(this.least));
        words.textContent = `weight ${inDigits(this.least)}`;
        slider.setAttribute("aria-valuetext", words.textContent);
      },
    };
  }

  /** The least weight that is drawn. */
  get least() {
    const given = Number(this.page.state.get("threshold", "0.05"));
    return given > 0 && given <= 1 ? given : 0.05;
  }

  /** @param {boolean} column */
  makePanes(column) {
    const [queries, keys] = [this.queries, this.keys];
    const pane = (/** @type {"reads" | "read"} */ direction) =>
      new TextPane({
        label: crossHeadings(this.reader.chosen?.layer)[direction === "reads" ? 0 : 1],
        column,
        onpoint: (token, by) => this.pointed(direction, token, by),
        onchoose: (token, add) => this.reader.attending.toggle(direction, token, add),
        onscroll: () => this.later(),
      });
    this.queries = pane("reads");
    this.keys = pane("read");
    fill(this.body, this.queries.element, this.keys.element, this.canvas);
    queries?.destroy();
    keys?.destroy();
    this.column = column;
    this.element?.classList.toggle("pl-cross-stacked", !column);
  }

  resized() {
    if (this.wantsColumns() !== this.column) this.showTokens();
    this.later();
  }

  wantsColumns() {
    const { clientWidth: width } = this.element;
    const { queries, keys } = this.reader;
    const long = (/** @type {string[]} */ texts) => texts.length > CROSS_SHORT || textWidth(texts.map((text) => shownToken(text)).join(" "), 16) > width - 40;
    return width >= CROSS_NARROW || [queries, keys].some((axis) => axis && long(axis.texts));
  }

  /** @param {import("./state.js").State} state @param {Set<string>} changed */
  update(state, changed) {
    this.controls.update(state);
    this.reader.update(state, changed);
    if (changed.has("info")) this.links.again();
    this.askPath();
    if (["theme", "colours", "scale", "range", "several", "threshold"].some((name) => changed.has(name))) this.reader.changed();
  }

  destroy() {
    this.stopKeys();
    cancelAnimationFrame(this.frame);
    this.observer.disconnect();
    this.pathAsking?.abort();
    this.links.destroy();
    this.reader.destroy();
    this.queries?.destroy();
    this.keys?.destroy();
  }

  showTokens() {
    const { queries, keys } = this.reader;
    if (!queries || !keys) return;
    const column = this.wantsColumns();
    const headings = crossHeadings(this.reader.chosen?.layer);
    if (column !== this.column || headings[0] !== this.queries?.label) this.makePanes(column);
    fill(this.names, headings.map((heading) => h("span", {}, heading)));
    this.queries?.setTokens(queries.texts, queries.chips);
    this.keys?.setTokens(keys.texts, keys.chips);
    const fixed = this.reader.attending.fixed[0];
    if (fixed !== undefined) (this.reader.attending.direction === "read" ? this.keys : this.queries)?.scrollTo(fixed);
    this.paint();
  }

  /** @param {"reads" | "read"} direction @param {number} token @param {"pointer" | "key"} by */
  pointed(direction, token, by) {
    this.reader.attending.pointAt(direction, token);
    this.pointer = { direction, token };
    this.tell();
    if (by === "key") this.page.announce(this.under.textContent ?? "");
  }

  leave() {
    if (!this.body.contains(document.activeElement)) this.reader.attending.unpoint();
  }

  /** The way that the texts are aligned on, once it is asked for. */
  async askPath() {
    const chosen = this.reader.chosen;
    const name = this.page.state.get("path") === "on" && chosen ? JSON.stringify(chosen.place) : "";
    if (name === this.pathName) return;
    this.pathName = name;
    this.path = null;
    this.pathMessage = "";
    this.pathAsking?.abort();
    if (!name || !chosen) return this.paint();
    const asking = (this.pathAsking = new AbortController());
    this.pathMessage = "Asking for the alignment …";
    try {
      this.path = await this.page.client.align(chosen.place, asking.signal);
      this.pathMessage = "";
    } catch (error) {
      if (asking.signal.aborted) return;
      this.pathMessage = error instanceof Error ? error.message : String(error);
    }
    this.paint();
  }

  paint() {
    const { chosen, shown, queries, keys } = this.reader;
    if (!chosen || !queries || !keys) {
      fill(this.status, "asking for the tokens …");
      return;
    }
    const coloured = shown?.direction === "read" ? this.queries : this.keys;
    for (const [pane, axis, direction] of /** @type {const} */ ([[this.queries, queries, "reads"], [this.keys, keys, "read"]])) {
      pane?.paint((token) => {
        const look = shown && pane === coloured ? this.reader.look(token) : {};
        const isShown = shown?.direction === direction && shown.places.includes(token);
        const marks = `${look.marks ?? ""}${isShown ? (shown.fixed ? " pl-fixed" : " pl-pointed") : ""}${axis.special.has(token) ? " pl-special" : ""}`;
        return { ...look, marks };
      });
    }
    const words = { reads: "Reads most", read: "Is read most by" };
    const other = shown?.direction === "read" ? this.queries : this.keys;
    this.list.show(shown ? words[shown.direction] : "", this.reader.strong((index) => other?.pointAt(index, "key")), shown ? "" : "Point at a token, or go to a text with the Tab key and move with the arrows, to see its weights here.");
    this.tell();
    this.draw();
  }

  later() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    const chosen = this.reader.chosen;
    if (!chosen || !this.queries || !this.keys || !this.reader.queries) return;
    this.links.show(chosen, this.queries.visibleTokens(), this.keys.visibleTokens());
    const box = this.body.getBoundingClientRect();
    const times = devicePixelRatio || 1;
    [this.canvas.width, this.canvas.height] = [Math.round(box.width * times), Math.round(box.height * times)];
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.scale(times, times);
    if (this.column) {
      const [left, right] = this.gap();
      context.beginPath();
      context.rect(left, 0, right - left, box.height);
      context.clip();
    }
    for (const line of this.linesInSight()) figureDraw(context, line);
    this.sayStatus();
    this.reader.expect(this.links.busy || this.pathMessage.endsWith("…"));
  }

  /** Between which places of the body the lines run. */
  gap() {
    const left = this.body.getBoundingClientRect().left;
    return [/** @type {TextPane} */ (this.queries).element.getBoundingClientRect().right - left, /** @type {TextPane} */ (this.keys).element.getBoundingClientRect().left - left];
  }

  /** The lines to draw, weakest first. @returns {FigureLine[]} */
  linesInSight() {
    const { shown, chosen } = this.reader;
    if (!chosen || !this.queries || !this.keys) return [];
    const colours = figureColours(this.page.root);
    const accent = getComputedStyle(this.page.root).getPropertyValue("--pl-accent").trim();
    const window = this.links.window;
    const [queries, keys] = [this.queries.visibleTokens(), this.keys.visibleTokens()];
    const inSight = (/** @type {number} */ query, /** @type {number} */ key) => query >= queries[0] && query < queries[1] && key >= keys[0] && key < keys[1];
    const found = window ? linksOf(window, queries, keys, this.least, CROSS_MOST) : { links: [], count: 0 };
    this.lineCount = found.count;
    const state = this.page.state.state;
    const scale = scaleOf({ ...state, scale: state.scale ?? "sqrt" }, () => [Float32Array.from(found.links, (link) => link.log)]);
    this.lineLook = { scale, stroke: shown && !this.reader.isEach ? colours.mark : accent };
    /** @type {FigureLine[]} */
    const lines = [];
    const put = (/** @type {number} */ query, /** @type {number} */ key, /** @type {number} */ log, /** @type {string} */ stroke, /** @type {number} */ faint) => {
      const { width, opacity } = lineStrength(log, scale);
      const line = this.lineOf(query, key, stroke, width, opacity * faint);
      if (line) lines.push(line);
    };
    for (const { query, key, log } of found.links) put(query, key, log, accent, shown ? 0.18 : 1);
    shown?.each.slice(0, this.reader.isEach ? READER_EACH : undefined).forEach((logs, i) => {
      const stroke = this.reader.isEach ? `rgb(${FIXED_COLOURS[i].join(",")})` : colours.mark;
      for (let other = 0; other < logs.length; other++) {
        if (!(logs[other] >= Math.fround(Math.log(this.least)))) continue;
        const [query, key] = shown.direction === "reads" ? [shown.places[i], other] : [other, shown.places[i]];
        if (inSight(query, key)) put(query, key, logs[other], stroke, 1);
      }
    });
    this.path?.rows.forEach((row, i) => {
      const line = this.lineOf(row, /** @type {{keys: number[]}} */ (this.path).keys[i], colours.text, 2.5, 0.85);
      if (line) lines.push(line);
    });
    return lines;
  }

  /** @param {number} query @param {number} key @param {string} stroke @param {number} width @param {number} opacity @returns {FigureLine | null} */
  lineOf(query, key, stroke, width, opacity) {
    const points = this.column ? this.acrossGap(query, key) : this.overText(query, key);
    return points && { kind: "line", points, stroke, width, opacity, curved: this.column };
  }

  /** @param {number} query @param {number} key @returns {[number, number][] | null} */
  acrossGap(query, key) {
    const panes = /** @type {[TextPane, TextPane]} */ ([this.queries, this.keys]);
    const [left, right] = this.gap();
    const height = this.body.clientHeight;
    const [y, v] = panes.map((pane, i) => ((i ? key : query) + 0.5) * pane.lineHeight + 8 - pane.offset);
    if ((y < 0 && v < 0) || (y > height && v > height)) return null;
    return [[left, y], [right, v]];
  }

  /** @param {number} query @param {number} key @returns {[number, number][] | null} */
  overText(query, key) {
    const box = this.body.getBoundingClientRect();
    const [from, to] = [this.queries?.spanOf(query), this.keys?.spanOf(key)].map((span) => span?.getBoundingClientRect());
    if (!from || !to) return null;
    const limits = [this.queries, this.keys].map((pane) => /** @type {TextPane} */ (pane).element.getBoundingClientRect());
    if (from.bottom > limits[0].bottom + 2 || from.bottom < limits[0].top || to.top < limits[1].top - 2 || to.top > limits[1].bottom) return null;
    return [[(from.left + from.right) / 2 - box.left, from.bottom - box.top], [(to.left + to.right) / 2 - box.left, to.top - box.top]];
  }

  /** How many lines there are. */
  manyInWords() {
    if (this.lineCount > CROSS_MOST) return `The strongest ${CROSS_MOST} of ${this.lineCount} lines are drawn.`;
    const { lineCount: count } = this;
    return this.links.window ? `${count === 1 ? "1 line" : `${count} lines`} between the tokens in sight ${count === 1 ? "weighs" : "weigh"} ${inDigits(this.least)} or more.` : "Asking for the weights …";
  }

  sayStatus() {
    const { problem, chosen } = this.reader;
    const many = this.manyInWords();
    const limited = chosen?.layer.exact ? "" : "Only the strongest keys of each query are known.";
    const words = [problem, this.reader.shown ? "" : limited, this.reader.shown ? this.reader.headline() : this.reader.attending.message, this.links.message || many, this.pathMessage];
    const text = words.filter(Boolean).join(" ");
    if (this.status.textContent !== text) this.status.textContent = text;
  }

  tell() {
    const pointer = this.pointer;
    if (!pointer) return;
    const axis = this.reader.axisOf(pointer.direction);
    const { shown } = this.reader;
    const weight = shown && shown.direction !== pointer.direction ? `: ${this.reader.weightAt(pointer.token)}` : "";
    this.under.textContent = axis ? `${placeName(axis, pointer.token)}${weight}` : "";
  }

  python() {
    return this.reader.python();
  }

  /** @param {"png" | "svg"} kind */
  picture(kind) {
    return crossPicture(this, kind);
  }
}

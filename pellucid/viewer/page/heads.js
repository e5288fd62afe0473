// The Heads view: every head of a record as a small map and as a point, in numbers, one linked to the other.

import { isDark } from "./app.js";
import { colourTable } from "./colour.js";
import { fill, h } from "./dom.js";
import { HeadCard } from "./headcard.js";
import { headFilters } from "./headfilters.js";
import { headsChoice, headsOf, isWanted } from "./headmodel.js";
import { headsPicture } from "./headspicture.js";
import { headTable } from "./headtable.js";
import { headsEmpty, headsHow, headsMissed } from "./headwords.js";
import { Scatter } from "./scatter.js";
import { Thumbs } from "./thumbs.js";
import { Wall } from "./wall.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./headmodel.js").Head} Head
 * @typedef {import("./state.js").State} State
 * @typedef {import("./client.js").Numbers} Numbers
 */

const headsOfLayout = ["record", "sort", "sink", "kinds", "roles", "form", "info", "view"];

/**
 * @param {Page} page
 * @returns {import("./app.js").View}
 */
export function headsView(page) {
  return new HeadsView(page);
}

class HeadsView {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    const open = this.open.bind(this);
    this.thumbs = new Thumbs(page, (layer) => {
      this.wall.drawAll(layer);
      this.tellDrawn();
    });
    this.wall = new Wall(this.thumbs, { open, hover: (head, element) => this.hover(head, element?.getBoundingClientRect() ?? null), sight: (layers) => {
        this.thumbs.want(this.asked(), layers);
        this.tellDrawn();
      } });
    this.scatter = new Scatter({ open, hover: (head, at) => this.hover(head, at), set: (patch) => page.state.set(patch) });
    this.card = new HeadCard(page, this.thumbs);
    this.table = headTable(page, open);
    this.filters = headFilters(page);
    this.words = h("div", { class: "pl-heads-words" });
    this.side = h("details", { class: "pl-heads-side" }, h("summary", {}, "Scatter"), this.scatter.element, h("div", { class: "pl-heads-how" }, headsHow()));
    this.main = h("div", { class: "pl-heads-main" }, this.wall.element, this.table.element, this.words);
    this.scroll = h("div", { class: "pl-heads-scroll" }, this.main, this.side);
    this.element = h("div", { class: "pl-heads" }, this.filters.element, this.scroll, this.card.element);
    this.element.addEventListener("scroll", () => this.card.hide(), true);
    /** @type {Numbers | null} */
    this.numbers = null;
    this.numbersOf = "";
    this.refusal = "";
    /** @type {Head[]} */
    this.heads = [];
    this.alive = true;
    this.built = false;
    this.drewFirst = () => {};
    /** @type {Promise<void>} the maps in sight come first: the numbers may take the server a while */
    this.firstDrawn = new Promise((resolve) => {
      this.drewFirst = resolve;
      setTimeout(resolve, 1500);
    });
    this.sized = new ResizeObserver(() => this.resize());
    this.sized.observe(this.scroll);
    this.sized.observe(this.scatter.drawing);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.darkened = () => this.colour();
    this.dark.addEventListener("change", this.darkened);
    this.width = 0;
  }

  /** @returns {import("./client.js").RecordInfo | undefined} */
  record() {
    return this.page.record(this.page.state.state);
  }

  /** @returns {import("./thumbs.js").ThumbsAsked} */
  asked() {
    const sequence = this.page.chosen(this.page.state.state)?.sequence ?? 0;
    return { record: this.record()?.id ?? "", sequence, pool: this.page.state.get("pool") === "max" ? "max" : "mean", most: this.cell() > 72 ? 128 : 48 };
  }

  choice() {
    return headsChoice(this.page.state.state, this.numbers);
  }

  /** @param {State} state @param {Set<string>} changed */
  update(state, changed) {
    if (changed.has("info")) this.thumbs.retry();
    const record = this.record();
    if (record && (record.id !== this.numbersOf || changed.has("info"))) this.ask(record);
    if (!this.built || headsOfLayout.some((name) => changed.has(name))) this.build();
    else if (["x", "y", "size"].some((name) => changed.has(name))) this.plot();
    if (["pool", "sequence", "thumb"].some((name) => changed.has(name))) this.resize(true);
    if (["colours", "scale", "theme", "view"].some((name) => changed.has(name)) || !this.wall.look) this.colour();
    this.filters.update(this.heads, this.choice(), this.numbers);
    this.select();
  }

  /** @param {import("./client.js").RecordInfo} record */
  async ask(record) {
    if (record.id !== this.numbersOf) this.numbers = null;
    this.numbersOf = record.id;
    this.refusal = "";
    if (!this.page.state.get("sort") && !this.page.state.get("kinds")) await this.firstDrawn;
    if (!this.alive || this.numbersOf !== record.id) return;
    try {
      const numbers = await this.page.numbers(record.id);
      if (!this.alive || this.numbersOf !== record.id) return;
      this.numbers = numbers;
    } catch (error) {
      if (this.numbersOf === record.id) this.refusal = error instanceof Error ? error.message : String(error);
    }
    if (!this.alive) return;
    this.build();
    this.filters.update(this.heads, this.choice(), this.numbers);
    this.select();
  }

  /** Everything that depends on which heads there are, and on their order. */
  build() {
    const record = this.record();
    this.built = true;
    this.card.hide();
    this.heads = record ? headsOf(record, this.numbers) : [];
    const choice = this.choice();
    const table = choice.form === "table";
    this.wall.element.hidden = table || !this.heads.length;
    this.table.element.hidden = !table || !this.heads.length;
    this.side.hidden = table || !this.heads.length;
    this.filters.element.hidden = !this.heads.length;
    if (table) this.table.update(this.heads, choice, this.numbers);
    else this.wall.build(this.heads, choice, this.numbers);
    const waits = this.refusal ? `no numbers of the heads: ${this.refusal}` : this.numbers || !this.heads.length ? "" : "the numbers of the heads are being computed …";
    fill(this.words, waits && h("p", { role: "status", class: this.refusal ? "pl-error" : "pl-faint" }, waits), record && !this.heads.length ? headsEmpty(record) : null, record ? headsMissed(record) : null);
    this.resize(true);
    this.plot();
    this.tellDrawn();
  }

  /** Say on the element whether all that is in sight is there. */
  tellDrawn() {
    const drawn = this.heads.length && this.choice().form === "wall" ? this.wall.drawn() : "final";
    if (drawn === "final" && this.built) this.drewFirst();
    const awaited = Boolean(this.record()) && !this.numbers && !this.refusal;
    this.element.dataset.drawn = drawn === "final" && awaited ? "coarse" : drawn;
    this.element.setAttribute("aria-busy", String(drawn !== "final" || awaited));
  }

  plot() {
    if (this.numbers && this.scatter.drawing.clientWidth) this.scatter.update(this.heads, this.choice(), this.numbers, this.plotLook());
  }

  /** The side of a cell in pixels: as asked for, or so that the widest layer fits into a line. */
  cell() {
    const asked = Number(this.page.state.get("thumb"));
    if (asked >= 24 && asked <= 512) return asked;
    const choice = this.choice();
    const most = choice.sort ? this.sortedAcross(choice) : Math.max(1, ...(this.record()?.layers ?? []).map((layer) => layer.heads));
    const label = this.main.clientWidth > 620 && !choice.sort ? 170 : 0;
    const room = (this.main.clientWidth - label - 24) / most - 4;
    const least = this.main.clientWidth < 620 ? 44 : 30;
    const high = (this.element.clientHeight - 110) / (this.record()?.layers.length || 1) - 26; // of a layer, on a screen that has them all in sight
    const largest = choice.sort ? 96 : Math.max(this.heads.length > 16 ? 128 : 200, Math.min(high, 320));
    return Math.round(Math.min(Math.max(room, choice.sort ? 44 : least), largest));
  }

  /** How many stand in a line where they are sorted. @param {import("./headmodel.js").HeadsChoice} choice */
  sortedAcross(choice) {
    const wanted = this.heads.filter((head) => isWanted(head, choice, this.numbers)).length;
    return Math.max(1, Math.min(wanted, Math.max(16, Math.floor(this.main.clientWidth / 100))));
  }

  /** @param {boolean} [anyway] */
  resize(anyway = false) {
    if (!this.alive) return;
    if (this.width === 0 && this.scroll.clientWidth) {
      this.side.open = this.scroll.clientWidth >= 900;
      this.colour(); // in a notebook the style sheet may not have held before
    }
    const moved = this.width !== this.scroll.clientWidth;
    this.width = this.scroll.clientWidth;
    if (!moved && !anyway) return this.plot();
    this.wall.side = this.cell();
    this.element.style.setProperty("--pl-cell", `${this.wall.side}px`);
    this.wall.ask();
    this.plot();
  }

  /** Colours of maps and points, as the state and the theme have them. */
  colour() {
    const state = this.page.state;
    const kind = state.get("scale") === "linear" ? "linear" : state.get("scale") === "sqrt" ? "sqrt" : "log";
    const table = colourTable(state.get("colours", "viridis"));
    const of = (/** @type {string} */ name) => [...hexColour(this.variable(name)), 255];
    this.wall.look = { kind, table, zero: of("--pl-zero"), nothing: of("--pl-nothing") };
    this.wall.drawAll();
    this.plot();
  }

  /** @param {string} name of a variable of the style sheet */
  variable(name) {
    return getComputedStyle(this.page.root).getPropertyValue(name).trim();
  }

  /** @returns {import("./scatterplot.js").PlotLook} */
  plotLook() {
    const [text, faint, line, back] = ["--pl-text", "--pl-faint", "--pl-line", "--pl-back"].map((name) => this.variable(name));
    return { text, faint, line, back };
  }

  select() {
    const chosen = this.page.chosen(this.page.state.state);
    const named = this.page.state.get("heads") || this.page.state.get("layer");
    this.wall.select(new Set(named && chosen ? chosen.heads.map((place) => `${chosen.layer.number}.${place}`) : []));
  }

  /** @param {Head | null} head @param {DOMRect | null} at */
  hover(head, at) {
    this.wall.mark(head?.id ?? "");
    this.scatter.mark(head?.id ?? "");
    const asked = this.asked();
    if (head && at) this.card.show(head, this.numbers, { record: asked.record, sequence: asked.sequence }, at, this.wall.look);
    else this.card.hide();
    if (head && this.scatter.drawing.matches(":focus")) this.page.announce(this.wall.cells.get(head.id)?.element.getAttribute("aria-label") ?? "");
  }

  /** @param {Head} head @param {boolean} several whether it joins the heads that are chosen */
  open(head, several) {
    const chosen = this.page.chosen(this.page.state.state);
    const same = several && chosen?.layer.number === head.layer.number && this.page.state.get("heads");
    if (!several) return this.page.state.set({ view: "map", layer: String(head.layer.number), heads: String(head.place), q: null, k: null, query: null, key: null, fixed: null });
    const heads = new Set(same ? chosen?.heads : []);
    if (!heads.delete(head.place)) heads.add(head.place);
    this.page.state.set({ layer: String(head.layer.number), heads: [...heads].sort((a, b) => a - b).join(",") || null });
  }

  /** @param {"png" | "svg"} kind */
  async picture(kind) {
    return headsPicture(this, kind);
  }

  async python() {
    const numbers = await this.page.numbers(this.record()?.id ?? "").catch(() => null); // which names there are to sort by
    const { sort, ascending, sink } = headsChoice(this.page.state.state, numbers);
    const name = sort && sink === "without" && numbers?.paired.includes(sort) ? `${sort}_without_sink` : sort;
    if (name) return `record.summary().sorted("${name}"${ascending ? ", descending=False" : ""})`;
    return sink === "without" ? "record.summary().without_sink()" : "record.summary()";
  }

  destroy() {
    this.alive = false;
    this.sized.disconnect();
    this.dark.removeEventListener("change", this.darkened);
    this.card.hide();
    this.wall.destroy();
    this.thumbs.destroy();
  }
}

/**
 * @param {string} colour #rrggbb
 * @returns {number[]}
 */
function hexColour(colour) {
  const found = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(colour);
  return found ? found.slice(1).map((part) => parseInt(part, 16)) : [128, 128, 128];
}

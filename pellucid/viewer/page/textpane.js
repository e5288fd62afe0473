// Tokens as text in a pane that scrolls, of which only the visible lines are elements. Says what is pointed at and chosen.

import { flowText, standApart } from "./flow.js";
import { fill, h } from "./dom.js";
import { shownToken, textOfToken } from "./tokens.js";

/**
 * @typedef {{back?: string, ink?: string, bands?: string, marks?: string}} Look marks: classes, each with a space before
 * @typedef {{label: string, column?: boolean, onpoint: (token: number, by: "pointer" | "key") => void,
 *   onchoose: (token: number, add: boolean) => void, onscroll?: () => void}} PaneOptions
 */

const PANE_LONGEST = 8e6; // CSS pixels that every browser scrolls
const PANE_GAP = 5;
const PANE_CHIP = 10; // padding and border of a token that is set apart
let paneCount = 0;

export class TextPane {
  /** @param {PaneOptions} options */
  constructor(options) {
    this.options = options;
    this.id = `pl-pane-${++paneCount}`;
    /** @type {string[]} */
    this.shown = [];
    /** @type {Set<number>} */
    this.chips = new Set();
    this.apart = false;
    this.cursor = 0;
    this.width = 0;
    this.label = options.label;
    this.lineHeight = 30;
    this.total = 0;
    this.font = "";
    this.flow = flowText([], { width: 1, widthOf: () => 0 });
    /** @type {Map<number, HTMLElement>} */
    this.rendered = new Map();
    /** @type {Map<string, number>} */
    this.widths = new Map();
    /** @type {(token: number) => Look} */
    this.look = () => ({});
    this.lines = h("div", { class: "pl-pane-lines", role: "presentation" });
    this.spacer = h("div", { class: "pl-pane-spacer", role: "presentation" }, this.lines);
    this.element = h(
      "div",
      {
        class: `pl-pane${options.column ? " pl-pane-column" : ""}`,
        role: "listbox",
        tabIndex: 0,
        "aria-label": options.label,
        "aria-multiselectable": "true",
        onscroll: () => {
          this.render();
          options.onscroll?.();
        },
        onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
        onmousedown: (/** @type {MouseEvent} */ event) => event.shiftKey && event.preventDefault(), // it would select text
        onpointermove: (/** @type {PointerEvent} */ event) => this.pointed(event),
        onclick: (/** @type {MouseEvent} */ event) => this.clicked(event),
        onfocus: () => this.pointAt(this.cursor, "key"),
      },
      this.spacer,
    );
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(this.element);
  }

  destroy() {
    this.observer.disconnect();
  }

  /**
   * Show other tokens. Chips are places whose text is no part of the running text: special tokens, or mere positions.
   * @param {string[]} texts
   * @param {Set<number>} chips
   */
  setTokens(texts, chips) {
    this.shown = texts.map((text) => (this.options.column && !text.trim() ? shownToken(text) : paneText(text)));
    this.chips = chips;
    this.apart = standApart(texts);
    this.cursor = Math.min(this.cursor, Math.max(texts.length - 1, 0));
    this.layout();
  }

  /** Break the lines anew, with the same token at the top. */
  layout() {
    const style = getComputedStyle(this.element);
    const inner = this.element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (!(inner > 0)) return;
    const top = this.firstVisible();
    this.lineHeight = parseFloat(style.lineHeight) || 30;
    const font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    if (font !== this.font) this.widths.clear();
    this.font = font;
    this.width = inner;
    const context = /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
    context.font = font;
    this.flow = flowText(this.shown, {
      width: inner - 4, // letters joined in a line may be a little wider than apart
      widthOf: (token, text) => this.widthOf(context, text) + (this.chips.has(token) ? PANE_CHIP : 0),
      apart: this.apart,
      gap: PANE_GAP,
      column: this.options.column,
      alone: this.chips,
    });
    this.total = (this.flow.lines.length - 1) * this.lineHeight;
    this.spacer.style.height = `${Math.min(this.total, PANE_LONGEST)}px`;
    fill(this.lines);
    this.rendered.clear();
    this.scrollTo(top, "start");
    this.render();
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {string} text
   */
  widthOf(context, text) {
    let width = this.widths.get(text);
    if (width === undefined) this.widths.set(text, (width = context.measureText(text.replaceAll("\n", "⏎")).width));
    return width;
  }

  resized() {
    const style = getComputedStyle(this.element);
    const inner = this.element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    if (Math.abs(inner - this.width) >= 1) this.layout();
    else this.render();
    this.options.onscroll?.();
  }

  /** How far the text is scrolled, in its own pixels, whatever a browser's longest element is. */
  get offset() {
    const view = this.element.clientHeight;
    const [total, long] = [this.total, Math.min(this.total, PANE_LONGEST)];
    if (long >= total) return this.element.scrollTop;
    return long > view ? (this.element.scrollTop * (total - view)) / (long - view) : 0;
  }

  set offset(offset) {
    const view = this.element.clientHeight;
    const [total, long] = [this.total, Math.min(this.total, PANE_LONGEST)];
    this.element.scrollTop = long >= total ? offset : (offset * (long - view)) / (total - view);
  }

  /** First and last line in sight. */
  visibleLines() {
    const [height, last] = [this.lineHeight, this.flow.lines.length - 2];
    const offset = this.offset;
    return [Math.min(Math.floor(offset / height), last), Math.min(Math.floor((offset + this.element.clientHeight) / height), last)];
  }

  /** First token in sight and the one after the last. @returns {[number, number]} */
  visibleTokens() {
    const [first, last] = this.visibleLines();
    if (last < 0) return [0, 0];
    return [this.flow.tokens[this.flow.lines[Math.max(first, 0)]], this.flow.tokens[this.flow.lines[last + 1] - 1] + 1];
  }

  firstVisible() {
    return this.visibleTokens()[0] ?? 0;
  }

  /** Make elements of the lines in sight and near it, and take others away. */
  render() {
    const [first, last] = this.visibleLines();
    const [from, to] = [Math.max(0, first - 6), Math.min(this.flow.lines.length - 2, last + 6)];
    const shift = this.element.scrollTop - this.offset;
    for (const [line, element] of this.rendered) {
      if (line >= from && line <= to) continue;
      element.remove();
      this.rendered.delete(line);
    }
    for (let line = from; line <= to; line++) {
      let element = this.rendered.get(line);
      if (!element) {
        element = this.lineElement(line);
        this.rendered.set(line, element);
        this.lines.append(element);
      }
      element.style.transform = `translateY(${line * this.lineHeight + shift}px)`;
    }
    this.markCursor();
  }

  /** @param {number} line */
  lineElement(line) {
    const element = h("div", { class: "pl-pane-line", role: "presentation", dir: this.options.column ? "ltr" : "auto" });
    for (let piece = this.flow.lines[line]; piece < this.flow.lines[line + 1]; piece++) {
      const token = this.flow.tokens[piece];
      const first = this.flow.from[piece] === 0;
      const text = this.shown[token].slice(this.flow.from[piece], this.flow.to[piece]);
      const span = h("span", first ? { role: "option", id: `${this.id}-${token}`, "aria-selected": "false" } : { role: "presentation" });
      const isIndent = piece === this.flow.lines[line] && text.length > 1 && text.startsWith(" "); // a line begins with its word
      span.textContent = (isIndent ? text.slice(1) : text).replaceAll("\n", "⏎");
      if (first && !span.textContent.trim()) span.ariaLabel = "space"; // else a screen reader is told nothing
      span.dataset.token = String(token);
      this.dress(span, this.look(token));
      element.append(span);
    }
    return element;
  }

  /**
   * @param {HTMLElement} span
   * @param {Look} look
   */
  dress(span, look) {
    const token = Number(span.dataset.token);
    const apart = this.apart && !this.shown[token].startsWith("##") ? " pl-apart" : "";
    const marks = `pl-token${this.chips.has(token) ? " pl-place" : ""}${apart}${look.marks ?? ""}`;
    if (span.className !== marks) span.className = marks;
    if (span.style.backgroundColor !== (look.back ?? "")) span.style.backgroundColor = look.back ?? "";
    if (span.style.color !== (look.ink ?? "")) span.style.color = look.ink ?? "";
    if (span.style.backgroundImage !== (look.bands ?? "")) span.style.backgroundImage = look.bands ?? "";
    if (span.role === "option") span.ariaSelected = String(marks.includes(" pl-fixed"));
  }

  /**
   * Give every token in sight its look, and others theirs once they come into sight.
   * @param {(token: number) => Look} look
   */
  paint(look) {
    this.look = look;
    for (const line of this.rendered.values()) {
      for (const span of line.children) this.dress(/** @type {HTMLElement} */ (span), look(Number(/** @type {HTMLElement} */ (span).dataset.token)));
    }
    this.markCursor();
  }

  markCursor() {
    this.lines.querySelector(".pl-cursor")?.classList.remove("pl-cursor");
    const span = this.spanOf(this.cursor);
    span?.classList.add("pl-cursor");
    if (span) this.element.setAttribute("aria-activedescendant", span.id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  /** The element of a token, where it is in sight. @param {number} token @returns {HTMLElement | null} */
  spanOf(token) {
    const line = this.rendered.get(this.flow.lineOf[token]);
    return line ? line.querySelector(`[data-token="${token}"]`) : null;
  }

  /**
   * Bring a token into sight.
   * @param {number} token
   * @param {"start" | "center" | "nearest"} [where]
   */
  scrollTo(token, where = "nearest") {
    const height = this.lineHeight;
    const [top, view] = [(this.flow.lineOf[token] ?? 0) * height, this.element.clientHeight - 12];
    const offset = this.offset;
    if (where === "start") this.offset = top;
    else if (where === "center") this.offset = top - view / 2;
    else if (top < offset) this.offset = top;
    else if (top + height > offset + view) this.offset = top + height - view;
    this.render();
  }

  /** @param {number} token @param {"pointer" | "key"} by */
  pointAt(token, by) {
    if (!this.shown.length) return;
    this.cursor = Math.max(0, Math.min(token, this.shown.length - 1));
    if (by === "key") this.scrollTo(this.cursor);
    this.markCursor();
    this.options.onpoint(this.cursor, by);
  }

  /** @param {Event} event @returns {number} the token at a pointer, or -1 */
  tokenAt(event) {
    const span = event.target instanceof Element ? event.target.closest("[data-token]") : null;
    return span instanceof HTMLElement ? Number(span.dataset.token) : -1;
  }

  /** @param {PointerEvent} event */
  pointed(event) {
    const token = this.tokenAt(event);
    if (token >= 0 && token !== this.cursor && !event.buttons) this.pointAt(token, "pointer");
  }

  /** @param {MouseEvent} event */
  clicked(event) {
    const token = this.tokenAt(event);
    const selection = getSelection();
    if (token < 0 || (selection && !selection.isCollapsed && this.element.contains(selection.anchorNode))) return;
    this.pointAt(token, "pointer");
    this.options.onchoose(token, event.shiftKey || event.ctrlKey || event.metaKey);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.altKey || event.metaKey || (event.ctrlKey && event.key !== "Enter" && event.key !== " ")) return;
    if (event.key === "Enter" || event.key === " ") this.options.onchoose(this.cursor, event.shiftKey || event.ctrlKey);
    else {
      const token = this.reached(event.key);
      if (token === null) return;
      this.pointAt(token, "key");
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /**
   * The token that a key leads to; null for other keys.
   * @param {string} key
   * @returns {number | null}
   */
  reached(key) {
    if (key === "ArrowLeft") return this.cursor - 1;
    if (key === "ArrowRight") return this.cursor + 1;
    if (key === "Home") return 0;
    if (key === "End") return this.shown.length - 1;
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.lineHeight) - 1);
    const lines = /** @type {Record<string, number>} */ ({ ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page })[key];
    return lines ? this.tokenInLine(this.flow.lineOf[this.cursor] + lines) : null;
  }

  /**
   * The token of a line that stands under the cursor.
   * @param {number} line
   * @returns {number}
   */
  tokenInLine(line) {
    const wanted = Math.max(0, Math.min(line, this.flow.lines.length - 2));
    const at = this.spanOf(this.cursor)?.getBoundingClientRect();
    this.scrollTo(this.flow.tokens[this.flow.lines[wanted]]);
    const spans = [...(this.rendered.get(wanted)?.children ?? [])];
    const away = (/** @type {Element} */ span) => {
      const box = span.getBoundingClientRect();
      return Math.abs((box.left + box.right - (at?.left ?? 0) - (at?.right ?? 0)) / 2);
    };
    const nearest = spans.reduce((best, span) => (away(span) < away(best) ? span : best), spans[0]);
    return nearest instanceof HTMLElement ? Number(nearest.dataset.token) : this.cursor;
  }
}

/** A token as running text has it. @param {string} text */
function paneText(text) {
  return text === "" ? "∅" : textOfToken(text).replaceAll("\t", "⇥   ");
}

// A field that finds words in one text or two, and leads from place to place.

import { h } from "./dom.js";
import { findText, nextFound } from "./find.js";

/**
 * @typedef {import("./textpane.js").TextPane} TextPane
 * @typedef {{pane: TextPane, texts: string[]}} FinderText
 * @typedef {{pane: TextPane, first: number, last: number}} FinderPlace
 */

const FINDER_MARKED = 20000; // places that are marked in the text

export class Finder {
  /**
   * @param {(text: string) => void} ontyped
   * @param {() => void} onfound what is to be marked has changed
   */
  constructor(ontyped, onfound) {
    this.onfound = onfound;
    /** @type {FinderText[]} */
    this.texts = [];
    /** @type {FinderPlace[]} */
    this.found = [];
    this.at = -1;
    /** @type {Map<TextPane, Set<number>>} */
    this.marked = new Map();
    this.count = h("span", { class: "pl-faint", role: "status" });
    this.field = h("input", {
      type: "search",
      class: "pl-text-find",
      placeholder: "find in text",
      "aria-label": "find in text",
      oninput: () => {
        ontyped(this.field.value);
        this.search(true);
      },
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        if (event.key === "Enter") this.next(event.shiftKey ? -1 : 1);
        else if (event.key === "Escape") this.texts[0]?.pane.element.focus();
      },
    });
    const step = (/** @type {string} */ label, /** @type {string} */ arrow, /** @type {1 | -1} */ by) =>
      h("button", { type: "button", "aria-label": label, onclick: () => this.next(by) }, arrow);
    this.element = h("span", { class: "pl-text-finding" }, this.field, step("previous place found", "↑", -1), step("next place found", "↓", 1), this.count);
  }

  /**
   * What is to be found, and in which texts.
   * @param {string} wanted
   * @param {FinderText[]} texts
   */
  update(wanted, texts) {
    if (this.field.value === wanted && this.texts === texts) return;
    this.texts = texts;
    if (this.field.value !== wanted) this.field.value = wanted;
    this.search(false);
  }

  /** @param {boolean} show whether the first place after what is in sight is shown */
  search(show) {
    const wanted = this.field.value;
    this.found = this.texts.flatMap(({ pane, texts }) => findText(texts, wanted, pane.apart).map(([first, last]) => ({ pane, first, last })));
    this.at = -1;
    this.marked = new Map(this.texts.map(({ pane }) => [pane, new Set()]));
    for (const { pane, first, last } of this.found.slice(0, FINDER_MARKED)) {
      for (let token = first; token <= Math.min(last, first + 63); token++) this.marked.get(pane)?.add(token);
    }
    if (show && this.found.length) {
      this.at = Math.max(0, this.found.findIndex(({ pane, first }) => first >= pane.visibleTokens()[0]));
      this.found[this.at].pane.scrollTo(this.found[this.at].first);
    }
    this.say();
    this.onfound();
  }

  /** @param {1 | -1} step */
  next(step) {
    if (!this.found.length) return;
    if (this.at >= 0) this.at = (this.at + step + this.found.length) % this.found.length;
    else {
      const { pane } = this.found[0];
      const own = /** @type {[number, number][]} */ (this.found.filter((one) => one.pane === pane).map(({ first, last }) => [first, last]));
      this.at = nextFound(own, pane.cursor - step, step);
    }
    const { pane, first } = this.found[this.at];
    pane.scrollTo(first, "center");
    pane.pointAt(first, "key");
    this.say();
  }

  say() {
    const where = this.at < 0 ? `${this.found.length} found` : `${this.at + 1} of ${this.found.length}`;
    this.count.textContent = !this.field.value ? "" : this.found.length ? where : "not found";
  }
}

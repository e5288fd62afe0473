// What is visible of a map that moves: between the address and the gestures, with square cells or not.

import { rangeOf } from "./state.js";
import { movedBy, rangeText, squareByItself, wholeMap, withinMap, zoomedAbout } from "./viewport.js";

/**
 * @typedef {import("./viewport.js").Visible} Visible
 * @typedef {import("./viewport.js").Pair} Pair
 * @typedef {import("./state.js").State} State
 */

export class Camera {
  constructor() {
    /** @type {Pair} */
    this.lengths = { q: 1, k: 1 };
    /** @type {Pair} */
    this.pixels = { q: 1, k: 1 };
    this.square = true;
    /** @type {Visible | null} what was asked for, whatever the window's shape; null: the whole map */
    this.asked = null;
    this.visible = wholeMap(this.lengths, this.pixels, true);
    this.said = "";
  }

  /** Take over what the address says. @param {State} state @param {Pair} lengths */
  read(state, lengths) {
    this.lengths = lengths;
    const [q0, q1] = rangeOf(state.q, lengths.q);
    const [k0, k1] = rangeOf(state.k, lengths.k);
    this.asked = state.q || state.k ? { q0, q1, k0, k1 } : null;
    const alike = squareByItself(this.asked ? { q: q1 - q0, k: k1 - k0 } : lengths);
    this.square = state.cells === "square" || (state.cells !== "fill" && squareByItself(lengths) && alike);
    this.said = this.name(state);
    this.place();
  }

  /** Whether an address says what is visible already. @param {State} state */
  agrees(state) {
    return this.said === this.name(state);
  }

  /** @param {State} state */
  name(state) {
    return [state.q, state.k, state.cells].join(" ");
  }

  /** Fit the area that there is now. @param {Pair} [pixels] */
  place(pixels = this.pixels) {
    this.pixels = pixels;
    const whole = wholeMap(this.lengths, pixels, this.square);
    this.visible = this.asked ? withinMap(this.asked, this.lengths, pixels, this.square) : whole;
  }

  /** @param {Visible} visible */
  go(visible) {
    this.asked = withinMap(visible, this.lengths, this.pixels, this.square);
    const whole = wholeMap(this.lengths, this.pixels, this.square);
    const near = (/** @type {number} */ a, /** @type {number} */ b) => Math.abs(a - b) < 1e-6 * Math.max(a, b, 1);
    if (near(this.asked.q1 - this.asked.q0, whole.q1) && near(this.asked.k1 - this.asked.k0, whole.k1)) this.asked = null;
    this.place();
  }

  /** @param {number} q rows @param {number} k keys */
  move(q, k) {
    this.go(movedBy(this.visible, q, k));
  }

  /** Zooming one axis alone ends square cells. @param {Pair} factor @param {Pair} at */
  zoom(factor, at) {
    if (factor.q !== factor.k) this.square = false;
    this.go(zoomedAbout(this.visible, factor, at));
  }

  whole() {
    this.asked = null;
    this.place();
  }

  /** What a pixel is, in rows and keys. @returns {Pair} */
  get each() {
    const { visible, pixels } = this;
    return { q: (visible.q1 - visible.q0) / pixels.q, k: (visible.k1 - visible.k0) / pixels.k };
  }

  /**
   * Where a point of the area is, in rows and keys.
   * @param {number} x
   * @param {number} y
   * @returns {Pair}
   */
  at(x, y) {
    return { q: this.visible.q0 + y * this.each.q, k: this.visible.k0 + x * this.each.k };
  }

  /** @returns {Pair} */
  get middle() {
    const { visible, lengths } = this;
    return { q: (visible.q0 + Math.min(visible.q1, lengths.q)) / 2, k: (visible.k0 + Math.min(visible.k1, lengths.k)) / 2 };
  }

  /**
   * Bring a place to the middle, its cell at least so many pixels large; NaN leaves an axis where it is.
   * @param {Pair} place
   * @param {number} cell
   */
  show(place, cell) {
    const { q, k } = this.middle;
    const at = { q: Number.isNaN(place.q) ? q : place.q + 0.5, k: Number.isNaN(place.k) ? k : place.k + 0.5 };
    const factor = (/** @type {number} */ each, /** @type {number} */ wanted) => (Number.isNaN(wanted) ? 1 : Math.max(1, each * cell));
    const factors = { q: factor(this.each.q, place.q), k: factor(this.each.k, place.k) };
    if (this.square) factors.q = factors.k = Math.max(factors.q, factors.k);
    const spans = { q: (this.visible.q1 - this.visible.q0) / factors.q / 2, k: (this.visible.k1 - this.visible.k0) / factors.k / 2 };
    this.go({ q0: at.q - spans.q, q1: at.q + spans.q, k0: at.k - spans.k, k1: at.k + spans.k });
  }

  /** Whether a place is on screen. @param {Pair} place */
  shows({ q, k }) {
    const { visible } = this;
    const inside = (/** @type {number} */ place, /** @type {number} */ from, /** @type {number} */ to) => Number.isNaN(place) || (place >= from - 1e-6 && place + 1 <= to + 1e-6);
    return inside(q, visible.q0, visible.q1) && inside(k, visible.k0, visible.k1);
  }

  /** What the address says of it. @param {State} state @returns {Record<string, string | null>} */
  patch(state) {
    const { asked, visible, lengths } = this;
    const spans = asked ? { q: visible.q1 - visible.q0, k: visible.k1 - visible.k0 } : lengths;
    const byItself = squareByItself(lengths) && squareByItself(spans);
    const patch = {
      q: asked ? rangeText(visible.q0, visible.q1) : null,
      k: asked ? rangeText(visible.k0, visible.k1) : null,
      cells: this.square === byItself ? null : this.square ? "square" : "fill",
    };
    this.said = [patch.q, patch.k, patch.cells].map((part) => part ?? undefined).join(" ");
    return patch;
  }
}

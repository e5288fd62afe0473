// The scatter of all heads by two numbers: pointed at, walked through by arrow keys, opened by a click or Enter.

import { fill, h } from "./dom.js";
import { isWanted, kindOf, numberName, numberNames, numberOf, numberTitle, shownNumber } from "./headmodel.js";
import { axisEnds, plotPoints } from "./scatterplot.js";

/**
 * @typedef {import("./headmodel.js").Head} Head
 * @typedef {import("./headmodel.js").HeadsChoice} HeadsChoice
 * @typedef {import("./client.js").Numbers} Numbers
 * @typedef {import("./scatterplot.js").Plot} Plot
 * @typedef {import("./scatterplot.js").PlotLook} PlotLook
 * @typedef {{hover: (head: Head | null, at: DOMRect | null) => void, open: (head: Head, several: boolean) => void, set: (patch: Record<string, string | null>) => void}} ScatterTold
 */

const scatterNear = 20; // pixels from a point that still mean it

/**
 * What is plotted of heads, and how many have no place in it.
 * @param {Head[]} heads
 * @param {HeadsChoice} choice
 * @param {Numbers} numbers
 * @returns {Plot & {left: number}}
 */
export function plotOf(heads, choice, numbers) {
  const wanted = heads.filter((head) => isWanted(head, choice, numbers));
  const points = wanted.flatMap((head) => {
    const [x, y] = [choice.x, choice.y].map((name) => numberOf(numbers, head, name, choice.sink));
    if (x === null || y === null) return [];
    const size = choice.size ? numberOf(numbers, head, choice.size, choice.sink) : null;
    return [{ id: head.id, x, y, size, kind: kindOf(numbers, head, choice.sink).kind }];
  });
  const titles = (/** @type {string} */ name) => [numberTitle(numbers, name, choice.sink), numberName(numbers, name, choice.sink).replaceAll("_", " ")];
  const size = choice.size && numberTitle(numbers, choice.size, choice.sink);
  return { points, x: titles(choice.x), y: titles(choice.y), size, left: wanted.length - points.length };
}

/** The scatter's elements. */
export class Scatter {
  /** @param {ScatterTold} told */
  constructor(told) {
    this.told = told;
    this.drawing = h("div", { class: "pl-scatter-drawing", tabIndex: 0, role: "application", "aria-label": "scatter of heads" });
    this.ring = h("div", { class: "pl-scatter-ring", hidden: true });
    this.note = h("p", { class: "pl-faint" });
    this.pickers = h("div", { class: "pl-row" });
    this.element = h("div", { class: "pl-scatter" }, this.pickers, h("div", { class: "pl-scatter-box" }, this.drawing, this.ring), this.note);
    /** @type {{heads: Map<string, Head>, plot: Plot, places: Map<string, {x: number, y: number, r: number}>} | null} */
    this.shown = null;
    this.current = "";
    this.made = "";
    this.listen();
  }

  listen() {
    this.drawing.addEventListener("pointermove", (event) => this.point(this.nearest(event)));
    this.drawing.addEventListener("pointerleave", () => this.point(""));
    this.drawing.addEventListener("blur", () => this.point(""));
    this.drawing.addEventListener("click", (event) => this.open(this.nearest(event), event.shiftKey || event.ctrlKey || event.metaKey));
    this.drawing.addEventListener("keydown", (event) => this.pressed(event));
  }

  /**
   * @param {Head[]} heads
   * @param {HeadsChoice} choice
   * @param {Numbers} numbers
   * @param {PlotLook} look
   */
  update(heads, choice, numbers, look) {
    this.pick(choice, numbers);
    const width = Math.max(this.drawing.clientWidth, 200);
    const plot = plotOf(heads, choice, numbers);
    const { element, places } = plotPoints(plot, { width, height: Math.round(Math.min(Math.max(width * 0.75, 220), 520)) }, look);
    fill(this.drawing, element);
    this.shown = { heads: new Map(heads.map((head) => [head.id, head])), plot, places };
    this.note.textContent = scatterNote(plot, heads.length);
    this.mark("");
  }

  /**
   * The three numbers that can be chosen.
   * @param {HeadsChoice} choice
   * @param {Numbers} numbers
   */
  pick(choice, numbers) {
    const names = numberNames(numbers);
    const text = JSON.stringify([names, choice.x, choice.y, choice.size]);
    if (text === this.made) return;
    this.made = text;
    const list = (/** @type {"x" | "y" | "size"} */ axis, /** @type {string} */ label, /** @type {string[]} */ options) => {
      const select = h("select", { onchange: () => this.told.set({ [axis]: select.value }) }, options.map((name) => h("option", { value: name, title: numbers.titles[name] ?? "" }, name.replaceAll("_", " "))));
      select.value = choice[axis] || "none";
      return h("label", { class: "pl-field" }, h("span", {}, label), select);
    };
    const focused = [...this.pickers.querySelectorAll("select")].indexOf(/** @type {any} */ (document.activeElement));
    fill(this.pickers, list("x", "across", names), list("y", "up", names), list("size", "size", ["none", ...names]));
    this.pickers.querySelectorAll("select")[focused]?.focus();
  }

  /**
   * @param {PointerEvent | MouseEvent} event
   * @returns {string} the head whose point is nearest, or ""
   */
  nearest(event) {
    const box = this.drawing.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = ["", Infinity];
    for (const [id, at] of this.shown?.places ?? []) {
      const far = Math.max(Math.hypot(at.x - x, at.y - y) - at.r, 0) + Math.hypot(at.x - x, at.y - y) / 1e3;
      if (far < least) [best, least] = [id, far];
    }
    return least < scatterNear ? best : "";
  }

  /** @param {string} id */
  point(id) {
    const head = this.shown?.heads.get(id) ?? null;
    this.mark(id);
    this.told.hover(head, head && this.ring.getBoundingClientRect());
  }

  /** @param {string} id of a head that is pointed at here or elsewhere, or "" */
  mark(id) {
    const at = this.shown?.places.get(id);
    this.ring.hidden = !at;
    if (!at) return;
    const side = at.r * 2 + 8;
    Object.assign(this.ring.style, { left: `${at.x - side / 2}px`, top: `${at.y - side / 2}px`, width: `${side}px`, height: `${side}px` });
  }

  /** @param {string} id @param {boolean} several */
  open(id, several) {
    const head = this.shown?.heads.get(id);
    if (head) this.told.open(head, several);
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || !this.shown) return;
    const ways = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] });
    if (event.key === "Enter" || event.key === " ") this.open(this.current, event.shiftKey);
    else if (event.key === "Escape") this.point("");
    else if (event.key in ways) this.point((this.current = this.towards(ways[event.key])));
    else if (event.key === "Home" || event.key === "End") this.point((this.current = [...this.shown.places.keys()].at(event.key === "Home" ? 0 : -1) ?? ""));
    else return;
    event.preventDefault();
  }

  /**
   * @param {[number, number]} way
   * @returns {string} the point that is nearest in a direction, or the same
   */
  towards([dx, dy]) {
    const places = this.shown?.places;
    const here = places?.get(this.current);
    if (!places || !here) return places?.keys().next().value ?? "";
    let [best, least] = [this.current, Infinity];
    for (const [id, at] of places) {
      const along = (at.x - here.x) * dx + (at.y - here.y) * dy;
      const aside = Math.abs((at.x - here.x) * dy) + Math.abs((at.y - here.y) * dx);
      if (id !== this.current && along > 0.01 && along + aside * 2 < least) [best, least] = [id, along + aside * 2];
    }
    return best;
  }
}

/**
 * @param {Plot & {left: number}} plot
 * @param {number} all
 * @returns {string}
 */
export function scatterNote(plot, all) {
  const count = `${plot.points.length} of ${all} heads`;
  const left = plot.left ? `; ${plot.left} have no such number` : "";
  if (!plot.size || !plot.points.length) return count + left;
  const [low, high] = axisEnds(plot.points.flatMap((point) => (point.size === null ? [] : [point.size])));
  return `${count}${left}; the larger the point, the larger the ${plot.size} (${shownNumber(Math.max(low, 0))} to ${shownNumber(high)})`;
}

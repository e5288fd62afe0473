// The wall: every head as a small map, layer by layer, or in one row of rows where they are sorted by a number.

import { fill, h } from "./dom.js";
import { plainName } from "./choices.js";
import { isWanted, kindOf, numberOf, shownNumber, sortedHeads } from "./headmodel.js";
import { kindBadge, kindLook } from "./kinds.js";
import { drawThumb } from "./thumbs.js";

/**
 * @typedef {import("./headmodel.js").Head} Head
 * @typedef {import("./headmodel.js").HeadsChoice} HeadsChoice
 * @typedef {import("./client.js").Numbers} Numbers
 * @typedef {import("./client.js").LayerInfo} LayerInfo
 * @typedef {{head: Head, element: HTMLElement, canvas: HTMLCanvasElement | null, drawn: any}} WallCell
 * @typedef {{hover: (head: Head | null, element: Element | null) => void, open: (head: Head, several: boolean) => void, sight: (layers: LayerInfo[]) => void}} WallTold
 */

const wallNoMap = "no map was read: this layer kept neither query and key nor a pooled map; watch with keep=True or more=[pellucid.Pooled(64, 64)]";

/** The wall's elements, and which of its heads has the focus. */
export class Wall {
  /**
   * @param {import("./thumbs.js").Thumbs} thumbs
   * @param {WallTold} told
   */
  constructor(thumbs, told) {
    this.thumbs = thumbs;
    this.told = told;
    this.element = h("div", { class: "pl-wall", role: "listbox", "aria-label": "heads", "aria-multiselectable": "true" });
    /** @type {Map<string, WallCell>} */
    this.cells = new Map();
    /** @type {Map<Element, WallCell>} */
    this.byElement = new Map();
    /** @type {Set<WallCell>} */
    this.inSight = new Set();
    /** @type {Map<number, HTMLElement>} what is said of a layer */
    this.says = new Map();
    this.current = "";
    /** @type {HTMLElement | undefined} */
    this.marked = undefined;
    this.side = 48; // of a cell, in pixels
    this.looked = false; // whether it is known what is in sight
    /** @type {import("./thumbs.js").ThumbsLook | null} */
    this.look = null;
    this.sight = new IntersectionObserver((entries) => this.seen(entries), { rootMargin: "200px" });
    this.listen();
  }

  listen() {
    const of = (/** @type {Event} */ event) => this.cellOf(event.target);
    let still = "";
    this.element.addEventListener("pointerover", (event) => {
      const at = `${event.clientX} ${event.clientY}`;
      if (at !== still) this.told.hover(of(event)?.head ?? null, of(event)?.element ?? null); // not where the wall moved under it
      still = at;
    });
    this.element.addEventListener("pointerleave", () => this.told.hover(null, null));
    this.element.addEventListener("focusin", (event) => this.focused(of(event)));
    this.element.addEventListener("focusout", () => this.told.hover(null, null));
    this.element.addEventListener("keydown", (event) => this.pressed(event));
    this.element.addEventListener("click", (event) => {
      const cell = of(event);
      if (cell) this.told.open(cell.head, event.shiftKey || event.ctrlKey || event.metaKey);
    });
  }

  /**
   * @param {EventTarget | null} target
   * @returns {WallCell | null}
   */
  cellOf(target) {
    const element = target instanceof Element ? target.closest(".pl-head") : null;
    return (element && this.byElement.get(element)) || null;
  }

  /**
   * Build the cells anew: other heads, another order, other numbers.
   * @param {Head[]} heads
   * @param {HeadsChoice} choice
   * @param {Numbers | null} numbers
   */
  build(heads, choice, numbers) {
    const focused = this.element.matches(":focus-within");
    this.sight.disconnect();
    this.looked = false;
    for (const map of [this.cells, this.byElement, this.inSight, this.says]) map.clear();
    const shown = sortedHeads(heads, choice, numbers).filter((head) => isWanted(head, choice, numbers));
    for (const head of shown) this.make(head, choice, numbers);
    const none = h("p", { class: "pl-faint", role: "presentation" }, "No head is of the kinds and roles that are chosen.");
    fill(this.element, !shown.length && heads.length ? none : choice.sort ? this.sorted(shown) : this.layered(shown));
    if (!this.cells.has(this.current)) this.current = this.cells.keys().next().value ?? "";
    this.cells.get(this.current)?.element.setAttribute("tabindex", "0");
    if (focused) this.cells.get(this.current)?.element.focus({ preventScroll: true });
    for (const cell of this.cells.values()) this.sight.observe(cell.element);
    for (const layer of this.says.keys()) this.say(layer);
  }

  /** @param {Head[]} shown */
  sorted(shown) {
    return h("div", { class: "pl-wall-heads", role: "presentation" }, shown.map((head) => this.cells.get(head.id)?.element));
  }

  /** @param {Head[]} shown */
  layered(shown) {
    return [...new Set(shown.map((head) => head.layer))].map((layer) => {
      const says = h("p", { class: "pl-faint pl-wall-says", role: "presentation", hidden: true });
      this.says.set(layer.number, says);
      const label = h(
        "div",
        { class: "pl-wall-label", role: "presentation", title: layer.name },
        h("b", {}, String(layer.number)),
        h("span", { class: "pl-wall-name" }, plainName(layer.name, 34)),
        h("span", { class: "pl-faint" }, `${layer.role} · ${layer.q_len} × ${layer.k_len}`),
      );
      const heads = shown.filter((head) => head.layer === layer).map((head) => this.cells.get(head.id)?.element);
      return h("div", { class: "pl-wall-layer", role: "group", "aria-label": `layer ${layer.number}, ${plainName(layer.name)}, ${layer.role}` }, label, h("div", { class: "pl-wall-heads", role: "presentation" }, heads, says));
    });
  }

  /**
   * @param {Head} head
   * @param {HeadsChoice} choice
   * @param {Numbers | null} numbers
   */
  make(head, choice, numbers) {
    const { kind, because } = kindOf(numbers, head, choice.sink);
    const value = choice.sort ? shownNumber(numberOf(numbers, head, choice.sort, choice.sink)) : "";
    const told = [`layer ${head.layer.number}, head ${head.number}`, numbers ? kind : "", because, value && `${choice.sort} ${value}`, head.layer.map ? "" : "no map"];
    const name = choice.sort ? `${head.layer.number}·${head.number}` : String(head.number);
    const element = h(
      "div",
      { class: "pl-head", role: "option", "aria-label": told.filter(Boolean).join(", "), "aria-selected": "false" },
      h("span", { class: head.layer.map ? "pl-head-map" : "pl-head-map pl-hatched" }),
      h("span", { class: "pl-head-foot", "aria-hidden": "true", "data-name": name }, numbers ? kindBadge(kind) : null),
      value ? h("span", { class: "pl-head-value", "aria-hidden": "true", "data-value": value }) : null,
    );
    element.tabIndex = -1;
    element.style.setProperty("--pl-kind", numbers ? kindLook(kind).colour : "transparent");
    const cell = { head, element, canvas: null, drawn: null };
    this.cells.set(head.id, cell);
    this.byElement.set(element, cell);
  }

  /** @param {Set<string>} ids of the heads that the other views look at */
  select(ids) {
    for (const [id, cell] of this.cells) {
      const selected = String(ids.has(id));
      if (cell.element.getAttribute("aria-selected") !== selected) cell.element.setAttribute("aria-selected", selected);
    }
  }

  /** @param {string} id of a head that is pointed at elsewhere, or "" */
  mark(id) {
    this.marked?.classList.remove("pl-marked");
    this.marked = this.cells.get(id)?.element;
    this.marked?.classList.add("pl-marked");
  }

  /** @param {IntersectionObserverEntry[]} entries */
  seen(entries) {
    for (const entry of entries) {
      const cell = this.byElement.get(entry.target);
      if (!cell) continue;
      if (entry.isIntersecting) this.inSight.add(cell);
      else this.inSight.delete(cell);
    }
    this.looked = true;
    this.ask();
  }

  /** Tell which layers are in sight, the uppermost first, and draw what is there. */
  ask() {
    const order = [...this.cells.values()].filter((cell) => this.inSight.has(cell));
    this.told.sight([...new Set(order.map((cell) => cell.head.layer))]);
    for (const cell of order) this.draw(cell);
  }

  /** Draw what is in sight, of one layer or of all. @param {number} [layer] */
  drawAll(layer) {
    for (const cell of this.inSight) if (layer === undefined || cell.head.layer.number === layer) this.draw(cell);
    for (const number of layer === undefined ? this.says.keys() : [layer]) this.say(number);
  }

  /** @returns {"nothing" | "coarse" | "final"} how far what is in sight is drawn */
  drawn() {
    const layers = new Set([...this.inSight].map((cell) => cell.head.layer));
    const awaited = [...layers].filter((layer) => this.thumbs.isAwaited(layer));
    if (!this.looked) return "nothing";
    return !awaited.length ? "final" : awaited.length < layers.size ? "coarse" : "nothing";
  }

  /** @param {WallCell} cell */
  draw(cell) {
    const maps = this.thumbs.of(cell.head.layer);
    if (!maps || !this.look || (cell.drawn?.maps === maps && cell.drawn.look === this.look)) return;
    if (!cell.canvas) {
      cell.canvas = h("canvas", { "aria-hidden": "true" });
      fill(/** @type {Element} */ (cell.element.firstElementChild), cell.canvas);
    }
    drawThumb(cell.canvas, maps, cell.head.place, this.look);
    cell.canvas.classList.toggle("pl-pixels", maps.shape[2] < this.side);
    cell.drawn = { maps, look: this.look };
  }

  /** @param {number} number of a layer of which something is to be said, or no more */
  say(number) {
    const says = this.says.get(number);
    const layer = [...this.cells.values()].find((cell) => cell.head.layer.number === number)?.head.layer;
    if (!says || !layer) return;
    const text = layer.map ? this.thumbs.said(layer) : wallNoMap;
    says.textContent = text;
    says.hidden = !text;
  }

  /** @param {WallCell | null} cell */
  focused(cell) {
    if (!cell) return;
    this.cells.get(this.current)?.element.setAttribute("tabindex", "-1");
    this.current = cell.head.id;
    cell.element.tabIndex = 0;
    this.told.hover(cell.head, cell.element);
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    const cell = this.cellOf(event.target);
    if (!cell || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") this.told.open(cell.head, event.shiftKey);
    else if (event.key === "Escape") this.told.hover(null, null);
    else {
      const next = this.beside(cell, event.key);
      if (next === undefined) return;
      next?.element.focus();
    }
    event.preventDefault();
  }

  /**
   * The cell that a key leads to; null where there is none further, undefined for other keys.
   * @param {WallCell} cell
   * @param {string} key
   */
  beside(cell, key) {
    const list = [...this.cells.values()];
    const at = list.indexOf(cell);
    if (key === "Home" || key === "End") return list.at(key === "Home" ? 0 : -1) ?? null;
    if (key === "ArrowRight" || key === "ArrowLeft") return list[at + (key === "ArrowRight" ? 1 : -1)] ?? null;
    if (key !== "ArrowDown" && key !== "ArrowUp") return undefined;
    return nearestLine(cell, list, key === "ArrowDown" ? 1 : -1);
  }

  destroy() {
    this.sight.disconnect();
  }
}

/**
 * Of the next line of cells above or below, the one that stands nearest.
 * @param {WallCell} cell
 * @param {WallCell[]} list
 * @param {1 | -1} way
 * @returns {WallCell | null}
 */
function nearestLine(cell, list, way) {
  const here = cell.element.getBoundingClientRect();
  let best = null;
  let least = Infinity;
  for (const one of list) {
    const there = one.element.getBoundingClientRect();
    const down = (there.top - here.top) * way;
    if (down < here.height / 2) continue;
    const far = down * 1e3 + Math.abs(there.left - here.left);
    if (far < least) [best, least] = [one, far];
  }
  return best;
}

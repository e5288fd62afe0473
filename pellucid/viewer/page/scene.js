// Maps with locked axes: one of them, or two and their difference. It moves them, asks for what they need and draws them.

import { Camera } from "./camera.js";
import { h } from "./dom.js";
import { gotoBox } from "./goto.js";
import { listenKeys, ownsWindow } from "./keys.js";
import { mapKey } from "./mapkeys.js";
import { MapPanel } from "./panel.js";
import { SceneDrawing } from "./scenedrawing.js";
import { SceneTelling } from "./scenetelling.js";
import { strongestOf } from "./source.js";
import { strongestPair } from "./mapstrongest.js";
import { TileStore } from "./tiles.js";
import { mapTools } from "./tools.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./viewport.js").Pair} Pair
 * @typedef {import("./app.js").Chosen} Chosen
 * @typedef {import("./source.js").Wish} Wish
 */

const sceneWaits = { movement: 80, settled: 350, arriving: 60 }; // milliseconds
const sceneCell = 16; // pixels of a pair that somebody goes to
const sceneChoosing = ["info", "record", "layer", "heads", "over", "pool", "sequence", "strips"];

export class MapScene {
  /**
   * @param {import("./app.js").Page} page
   * @param {boolean} compares two maps and their difference
   */
  constructor(page, compares) {
    this.page = page;
    /** @type {State} */
    this.state = {};
    this.camera = new Camera();
    this.store = new TileStore(page.client, () => this.arrived());
    this.panels = (compares ? ["A", "B"] : ["map"]).map((label) => this.newPanel(label));
    this.difference = compares ? this.newPanel("A − B", 1) : null;
    this.drawing = new SceneDrawing(this);
    this.telling = new SceneTelling(this);
    this.find = gotoBox((axis) => this.axis(axis), (axis, index) => this.goTo(axis, index), (text) => page.announce(text));
    const actions = { zoom: (/** @type {number} */ factor) => this.zoomMiddle(factor, factor), whole: () => this.whole(), strongest: () => this.strongest(), again: () => this.store.again() };
    this.tools = mapTools(page, actions, [this.find.element]);
    this.status = h("p", { class: "pl-map-status" });
    this.body = h("div", { class: "pl-map-panels" }, this.shownPanels.map((panel) => panel.element), this.telling.card.element, this.telling.aside.element);
    this.element = h("div", { class: `pl-map${compares ? " pl-compare" : ""}`, "aria-busy": "true", "data-drawn": "nothing" }, this.tools.element, this.body, this.status);
    /** @type {{panel: MapPanel, place: Pair, x: number, y: number} | null} */
    this.looked = null;
    this.frameAsked = 0;
    this.movementTimer = 0;
    this.settledTimer = 0;
    this.arrivedTimer = 0;
    this.fits = true;
    this.speaks = false;
    this.held = false;
    this.release = [this.hearKeys(), this.hearTheme()];
  }

  get shownPanels() {
    return this.difference ? [...this.panels, this.difference] : this.panels;
  }

  /** The panel that leads: the first that has room. */
  get lead() {
    return this.shownPanels.find((panel) => panel.pane.isShown) ?? null;
  }

  /** @param {string} label @param {number} [kept] */
  newPanel(label, kept) {
    /** @type {MapPanel} */
    const panel = new MapPanel(
      this.page,
      this.store,
      label,
      {
        move: (x, y) => this.move(-y * this.camera.each.q, -x * this.camera.each.k),
        zoom: (factors, x, y) => this.zoom(factors, this.camera.at(x, y)),
        look: (x, y) => this.look(panel, x, y),
        leave: () => this.leave(),
        hold: (held) => (this.held = held),
        choose: (x, y) => this.choose(panel, x, y),
      },
      {
        wheels: () => ownsWindow(this.page.root) || this.element.contains(document.activeElement),
        resized: () => this.schedule(),
        redraw: () => this.schedule(),
      },
      kept,
    );
    return panel;
  }

  hearKeys() {
    const part = (/** @type {number} */ down, /** @type {number} */ right) => {
      const { pixels, each } = this.camera;
      this.move(down * pixels.q * each.q, right * pixels.k * each.k);
    };
    const meaning = {
      pan: part,
      zoom: (/** @type {number} */ q, /** @type {number} */ k) => this.zoomMiddle(q, k),
      whole: () => this.whole(),
      step: (/** @type {number} */ down, /** @type {number} */ right) => this.step(down, right),
      strongest: () => this.strongest(),
      found: (/** @type {1 | -1} */ way) => this.find.step(way),
      search: () => this.find.focus(),
      free: () => this.page.state.set({ query: null, key: null }),
      fix: () => this.looked && this.fix(this.looked.place),
    };
    return listenKeys(this.page.root, (event) => mapKey(event, meaning));
  }

  hearTheme() {
    const system = matchMedia("(prefers-color-scheme: dark)");
    const changed = () => this.schedule();
    system.addEventListener("change", changed);
    return () => system.removeEventListener("change", changed);
  }

  /**
   * Show what a state says.
   * @param {State} state
   * @param {Set<string>} changed
   * @param {Chosen[]} chosen a place for each panel
   */
  update(state, changed, chosen) {
    const first = !this.panels[0].chosen;
    this.state = state;
    if (first || [...changed].some((name) => sceneChoosing.includes(name.replace(/^b\./, "")))) {
      this.panels.forEach((panel, number) => panel.choose(chosen[number], state));
      if (this.difference) this.shareAxes(this.difference);
      if (changed.has("info")) this.store.again();
      this.find.forget();
    }
    const { layer } = chosen[0];
    const lengths = { q: layer.q_len, k: layer.k_len };
    const { q, k } = this.camera.lengths;
    if (first || lengths.q !== q || lengths.k !== k || !this.camera.agrees(state)) this.camera.read(state, lengths);
    this.fits = true;
    this.schedule();
    this.wantSoon(0);
  }

  /** The difference lies on the axes of the first. @param {MapPanel} difference */
  shareAxes(difference) {
    const [a] = this.panels;
    difference.chosen = a.chosen;
    difference.source = a.source;
    difference.queries = { ...a.queries, strips: [], segments: [] };
    difference.keys = { ...a.keys, strips: [], segments: [] };
    difference.axesOf = a.axesOf;
  }

  arrived() {
    if (!this.movementTimer) this.fits = true;
    if (this.panels.some((panel) => panel.source?.probes)) this.wantSoon(0); // a level that is not held leads to the next
    if (!this.store.asked.size) this.schedule();
    else this.arrivedTimer ||= window.setTimeout(() => this.schedule(), sceneWaits.arriving); // more comes, and drawing takes its time
  }

  schedule() {
    clearTimeout(this.arrivedTimer);
    this.arrivedTimer = 0;
    this.frameAsked ||= requestAnimationFrame(() => {
      this.frameAsked = 0;
      this.frame();
    });
  }

  frame() {
    const { lead } = this;
    if (!lead?.source) return;
    if (this.difference) this.shareAxes(this.difference);
    if (this.drawing.arrange(lead)) {
      this.fits = true;
      this.wantSoon(0);
    }
    this.drawing.draw(lead);
    this.telling.say(lead);
    this.telling.progress(lead);
    this.telling.showCard(lead);
  }

  /** What is visible is final once this is done: the axes' texts are here, and every panel has its room. */
  async arranged() {
    await Promise.all(this.panels.map((panel) => panel.named));
    for (const panel of this.shownPanels) panel.pane.measure();
    this.frame();
  }

  /** @param {number} wait milliseconds; nothing is asked for while the map still moves */
  wantSoon(wait) {
    clearTimeout(this.movementTimer);
    this.movementTimer = window.setTimeout(() => {
      this.movementTimer = 0;
      this.want();
      this.fits = true;
      this.schedule();
    }, wait);
  }

  want() {
    const { lead } = this;
    if (!lead) return;
    const wishes = this.panels.map((panel) => panel.source?.wishes(this.drawing.visibleOf(panel), lead.pane.pixels) ?? []);
    /** @type {Wish[]} */
    const all = [];
    for (let i = 0; i < Math.max(...wishes.map((list) => list.length)); i++) for (const list of wishes) if (list[i]) all.push(list[i]);
    this.store.want(all);
  }

  /** The map has moved: it is drawn at once, asked for when it is cheap or has come to rest, and then remembered. */
  moved() {
    if (this.looked) this.look(this.looked.panel, this.looked.x, this.looked.y);
    this.schedule();
    const { each } = this.camera;
    if (each.q <= 1 && each.k <= 1) this.want();
    this.wantSoon(sceneWaits.movement);
    this.rememberSoon();
  }

  rememberSoon() {
    clearTimeout(this.settledTimer);
    this.settledTimer = window.setTimeout(() => this.remember(), sceneWaits.settled);
  }

  /** Put what is visible into the address: one step back for one movement, however slow. */
  remember() {
    if (this.held) return this.rememberSoon();
    this.settledTimer = 0;
    this.page.state.set(this.camera.patch(this.state));
  }

  /** @param {number} q @param {number} k */
  move(q, k) {
    this.camera.move(q, k);
    this.moved();
  }

  /** @param {Pair} factors @param {Pair} at */
  zoom(factors, at) {
    this.camera.zoom(factors, at);
    this.moved();
  }

  /** About the crosshair where it is on screen, else about the middle. @param {number} q @param {number} k */
  zoomMiddle(q, k) {
    const { fixed, camera } = this;
    const { middle } = camera;
    const near = fixed && camera.shows(fixed) ? { q: Number.isNaN(fixed.q) ? middle.q : fixed.q + 0.5, k: Number.isNaN(fixed.k) ? middle.k : fixed.k + 0.5 } : middle;
    this.zoom({ q, k }, near);
  }

  whole() {
    this.camera.square = this.state.cells ? this.state.cells === "square" : this.camera.square;
    this.camera.whole();
    this.page.state.set({ q: null, k: null, cells: null });
    this.page.announce("the whole map");
  }

  /** The crosshair that stays, in the first map's rows and keys; NaN where one axis has none. @returns {Pair | null} */
  get fixed() {
    const of = (/** @type {string | undefined} */ text) => (text !== undefined && /^\d+$/.test(text) ? Number(text) : NaN);
    const place = { q: of(this.state.query), k: of(this.state.key) };
    return Number.isNaN(place.q) && Number.isNaN(place.k) ? null : place;
  }

  /** @param {MapPanel} panel @param {number} x @param {number} y */
  look(panel, x, y) {
    const at = this.camera.at(x, y);
    const place = { q: Math.floor(at.q), k: Math.floor(at.k) };
    const { q, k } = this.camera.lengths;
    const inside = place.q >= 0 && place.k >= 0 && place.q < q && place.k < k;
    this.looked = inside ? { panel, place, x, y } : null;
    this.schedule();
  }

  leave() {
    this.looked = null;
    this.schedule();
  }

  /** The crosshair to another key of its query, or another query of its key; without one, to that alone. @param {"queries" | "keys"} axis @param {number} place */
  fixOther(axis, place) {
    const fixed = this.fixed ?? { q: NaN, k: NaN };
    this.reach(axis === "keys" ? { q: fixed.q, k: place } : { q: place, k: fixed.k }, 0);
  }

  /** @param {MapPanel} panel @param {number} x @param {number} y */
  choose(panel, x, y) {
    panel.pane.element.focus({ preventScroll: true });
    this.look(panel, x, y);
    if (this.looked) this.fix(this.looked.place);
  }

  /** @param {Pair} place */
  fix(place) {
    this.speaks = true;
    const text = (/** @type {number} */ at) => (Number.isNaN(at) ? null : String(at));
    this.page.state.set({ query: text(place.q), key: text(place.k) }, { replace: true });
  }

  /** The crosshair to the next cell. @param {number} down @param {number} right */
  step(down, right) {
    const { camera, lead, panels } = this;
    if (!lead || !panels[0].source) return;
    const middle = { q: Math.floor(camera.middle.q), k: Math.floor(camera.middle.k) };
    const from = { q: this.fixed?.q ?? NaN, k: this.fixed?.k ?? NaN };
    const place = { q: Number.isNaN(from.q) ? middle.q : from.q, k: Number.isNaN(from.k) ? middle.k : from.k };
    const cell = panels[0].source.at(place.q, place.k, camera.visible, camera.pixels);
    const next = (/** @type {number} */ at, /** @type {number} */ way, /** @type {number} */ first, /** @type {number} */ last, /** @type {number} */ length) =>
      Math.max(0, Math.min(length - 1, way > 0 ? last : way < 0 ? first - 1 : at));
    const { lengths } = camera;
    this.reach({
      q: next(place.q, down, cell?.q0 ?? place.q, cell?.q1 ?? place.q + 1, lengths.q),
      k: next(place.k, right, cell?.k0 ?? place.k, cell?.k1 ?? place.k + 1, lengths.k),
    }, 0);
  }

  /** Fix the crosshair at a place and have it on screen. @param {Pair} place @param {number} cell pixels of it at least */
  reach(place, cell) {
    this.leave(); // what lies under a pointer at rest is not what was gone to
    this.fix(place);
    if (this.camera.shows(place) && this.camera.each.k * cell <= 1) return this.schedule();
    this.camera.show(place, cell);
    this.moved();
  }

  /** @param {"queries" | "keys"} name */
  axis(name) {
    const { source, queries, keys } = this.panels[0];
    if (!source) return null;
    return name === "queries" ? { text: queries.text, length: source.lengths.q } : { text: keys.text, length: source.lengths.k };
  }

  /** @param {"queries" | "keys"} name @param {number} index */
  goTo(name, index) {
    const { chosen } = this.panels[0];
    if (!chosen) return;
    const { layer } = chosen;
    const same = (/** @type {number} */ place, /** @type {number} */ length) => (layer.role === "cross" || place < 0 || place >= length ? NaN : place);
    const q = name === "queries" ? index : (this.fixed?.q ?? same(index - layer.start, layer.q_len));
    const k = name === "keys" ? index : (this.fixed?.k ?? same(index + layer.start, layer.k_len));
    this.reach({ q, k }, sceneCell);
  }

  async strongest() {
    const { lead, panels, camera } = this;
    const { source } = panels[0];
    if (!lead || !source) return;
    const cell = strongestOf(source.grids(camera.visible, camera.pixels), camera.visible);
    if (!cell || !(cell.log > -Infinity)) return this.page.announce("nothing on screen has a weight");
    try {
      const pair = await strongestPair(source, cell);
      if (source !== panels[0].source) return; // another map was opened meanwhile
      this.reach({ q: pair.q0, k: pair.k0 }, source.refines ? sceneCell : 0);
    } catch (error) {
      this.page.announce(error instanceof Error ? error.message : String(error));
    }
  }

  destroy() {
    cancelAnimationFrame(this.frameAsked);
    this.frameAsked = -1;
    for (const timer of [this.movementTimer, this.settledTimer, this.arrivedTimer]) clearTimeout(timer);
    for (const stop of this.release) stop();
    this.tools.destroy();
    for (const panel of this.shownPanels) panel.destroy();
    this.store.destroy();
  }
}

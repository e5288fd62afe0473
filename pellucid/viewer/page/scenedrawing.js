// Draws the maps of a scene: the same part of each, in the same colours, with the same room for labels.

import { isDark } from "./app.js";
import { barTicks, differenceTicks } from "./bar.js";
import { givenScale, inDigits, scaleBetween, scaleKindOf } from "./colour.js";
import { bringToOne, DIFFERENCE_MOST, differenceOf, DIFFERENCE_SCALE, inProportion, placeInProportion } from "./difference.js";
import { inkOn } from "./ink.js";
import { cellNumbers, colourAt, weightOnColour } from "./numbers.js";
import { paletteOf, tableOf } from "./palette.js";
import { cellAmong } from "./source.js";

/**
 * @typedef {import("./scene.js").MapScene} MapScene
 * @typedef {import("./panel.js").MapPanel} MapPanel
 * @typedef {import("./viewport.js").Visible} Visible
 * @typedef {import("./pane.js").Drawing} Drawing
 * @typedef {import("./colour.js").Scale} Scale
 */

export class SceneDrawing {
  /** @param {MapScene} scene */
  constructor(scene) {
    this.scene = scene;
    /** @type {Scale} */
    this.scale = { kind: "log", low: 1e-5, high: 1 };
    this.largest = 1;
    this.arranged = "";
    this.compared = "";
    /** @type {(import("./raster.js").Grid & {largest: number}) | null} */
    this.grid = null;
    this.palette = paletteOf(scene.page.root);
  }

  get table() {
    return tableOf(this.scene.state.colours);
  }

  get diverging() {
    return tableOf("diverging", isDark(this.scene.page.root));
  }

  /** Whether differences are drawn by their square root: wherever weights are not drawn as they are. */
  get rooted() {
    return this.scale.kind !== "linear";
  }

  /** Whether the second map is of other lengths than the first. */
  get unlike() {
    const [a, b] = this.scene.panels.map((panel) => panel.source?.lengths);
    return a !== undefined && b !== undefined && (a.q !== b.q || a.k !== b.k);
  }

  /** The part of a panel's own map that is on screen. @param {Pick<MapPanel, "source">} panel @returns {Visible} */
  visibleOf(panel) {
    const { visible, lengths } = this.scene.camera;
    const own = panel.source?.lengths ?? lengths;
    return own.q === lengths.q && own.k === lengths.k ? visible : inProportion(visible, lengths, own);
  }

  /**
   * Give all panels the same room. Whether the map's area is another than before.
   * @param {MapPanel} lead
   * @returns {boolean}
   */
  arrange(lead) {
    const shown = this.scene.shownPanels.filter((panel) => panel.pane.isShown && panel.source);
    const rooms = shown.map(({ pane, axesOf, queries, keys, source }) => pane.room(axesOf, queries, keys, source?.lengths ?? { q: 1, k: 1 }));
    const widest = (/** @type {"queriesGutter" | "keysGutter" | "besideQueries" | "besideKeys"} */ name) => Math.max(...rooms.map((room) => room[name]));
    const room = { queriesGutter: widest("queriesGutter"), keysGutter: widest("keysGutter"), besideQueries: widest("besideQueries"), besideKeys: widest("besideKeys") };
    const { width, height } = lead.pane.size;
    const now = `${JSON.stringify(room)} ${width} ${height} ${shown.length}`;
    const other = now !== this.arranged;
    this.arranged = now;
    if (other) for (const panel of shown) panel.pane.arrange(room);
    if (other) this.scene.camera.place(lead.pane.pixels);
    return other;
  }

  /** @param {MapPanel} lead */
  draw(lead) {
    this.palette = paletteOf(this.scene.page.root);
    if (this.scene.fits) this.fit(lead);
    this.scene.fits = false;
    for (const panel of this.scene.shownPanels) {
      if (!panel.source || !panel.pane.isShown) continue;
      panel.pane.draw(this.of(panel));
    }
    const { chosen } = this.scene.panels[0];
    if (!chosen) return;
    this.scene.tools.update({
      state: this.scene.state,
      heads: Math.max(...this.scene.panels.map((panel) => panel.chosen?.heads.length ?? 1)),
      strips: chosen.layer.strips,
      shownStrips: (this.scene.state.strips ?? "entropy,received").split(",").filter((name) => name),
      square: this.scene.camera.square,
      scale: this.scale,
      bars: this.bars(),
      palette: this.palette,
      refused: this.scene.store.refused.size > 0 && !this.scene.panels.some((panel) => panel.source?.probes),
    });
  }

  /** Find the scale of what is visible. @param {MapPanel} lead */
  fit(lead) {
    const { state, panels, difference } = this.scene;
    let [low, high] = [Infinity, -Infinity];
    for (const panel of panels) {
      const [least, most] = panel.source?.extremes(this.visibleOf(panel), lead.pane.pixels) ?? [Infinity, -Infinity];
      low = Math.min(low, least);
      high = Math.max(high, most);
    }
    this.scale = givenScale(state) ?? scaleBetween(scaleKindOf(state), low, high);
    this.compared = "";
    if (difference) this.compare(true);
  }

  /**
   * The difference of what is visible, computed again where it moved or more has come.
   * @param {boolean} fits whether its range is found again
   */
  compare(fits) {
    const { panels, camera, store } = this.scene;
    const [a, b] = panels.map((panel) => panel.source);
    if (!a || !b) return null;
    const most = this.scene.movementTimer ? DIFFERENCE_MOST.moving : DIFFERENCE_MOST.still;
    const compared = JSON.stringify([most, camera.visible, camera.pixels, store.version, a.owner, b.owner, this.rooted]);
    if (compared === this.compared && this.grid) return this.grid;
    this.compared = compared;
    this.grid = differenceOf(a, b, camera.visible, camera.pixels, most);
    if (fits) this.largest = this.grid.largest || 1;
    bringToOne(this.grid.logs, this.largest, this.rooted);
    return this.grid;
  }

  /** @param {MapPanel} panel @returns {Drawing} */
  of(panel) {
    const { camera, difference } = this.scene;
    const { palette } = this;
    const apart = { zero: palette.zero, nothing: palette.nothing };
    const visible = panel === difference ? camera.visible : this.visibleOf(panel);
    const lengths = panel.source?.lengths ?? camera.lengths;
    const base = { lengths, visible, queries: panel.queries, keys: panel.keys, crosses: this.crosses(lengths), palette };
    if (panel === difference) {
      const grid = this.compare(false);
      const scene = { grids: grid ? [grid] : [], visible, scale: DIFFERENCE_SCALE, table: this.diverging, apart };
      return { ...base, scene, numbers: (layout) => cellNumbers(visible, lengths, layout, (q, k) => this.differenceText(q, k)) };
    }
    const grids = panel.source?.grids(visible, camera.pixels) ?? [];
    const textOf = (/** @type {number} */ q, /** @type {number} */ k) => {
      const cell = cellAmong(grids, q, k);
      return cell && cell.q1 - cell.q0 <= 1 && cell.k1 - cell.k0 <= 1 ? weightOnColour(cell.log, this.scale, this.table, palette) : null;
    };
    const scene = { grids, visible, scale: this.scale, table: this.table, apart };
    return { ...base, scene, numbers: (layout) => cellNumbers(visible, lengths, layout, textOf) };
  }

  /** @param {number} q @param {number} k */
  differenceText(q, k) {
    const { panels, camera } = this.scene;
    const [a, b] = panels.map(({ source }, number) => {
      if (!source) return NaN;
      const places = [placeInProportion(q, camera.lengths.q, source.lengths.q), placeInProportion(k, camera.lengths.k, source.lengths.k)];
      return Math.exp(source.at(places[0], places[1], this.visibleOf(panels[number]), camera.pixels)?.log ?? NaN);
    });
    if (Number.isNaN(a - b)) return null;
    const part = (a - b) / this.largest;
    const at = this.rooted ? Math.sign(part) * Math.sqrt(Math.abs(part)) : part;
    return { text: `${a < b ? "−" : "+"}${inDigits(Math.abs(a - b))}`, colour: inkOn(colourAt(this.diverging, Math.max(0, Math.min(1, (at + 1) / 2)))) };
  }

  /**
   * The crosshairs in a panel's own places.
   * @param {import("./viewport.js").Pair} lengths
   * @returns {import("./pane.js").Cross[]}
   */
  crosses(lengths) {
    const { fixed, looked, camera } = this.scene;
    const own = (/** @type {import("./viewport.js").Pair} */ { q, k }, /** @type {boolean} */ strong) => ({
      q: placeInProportion(q, camera.lengths.q, lengths.q),
      k: placeInProportion(k, camera.lengths.k, lengths.k),
      strong,
    });
    return [...(fixed ? [own(fixed, true)] : []), ...(looked ? [own(looked.place, false)] : [])];
  }

  /** The bars of all colours that are on screen. */
  bars() {
    const { panels, difference } = this.scene;
    const shown = [...panels.filter((panel) => panel.pane.isShown).slice(0, 1), ...(difference ? [difference] : [])];
    return shown.map((panel) => {
      const name = panel === difference ? "differences of weights" : "weights";
      return { ...this.bar(panel), name, title: !difference ? "" : panel === difference ? "A − B" : "A, B" };
    });
  }

  /** The bar of a panel's colours, for a picture. @param {MapPanel} panel */
  bar(panel) {
    if (panel === this.scene.difference) {
      return { table: this.diverging, ticks: differenceTicks(this.largest, this.rooted), title: `A − B${this.rooted ? ", square root" : ""}` };
    }
    const word = this.scale.kind === "sqrt" ? "square root" : this.scale.kind;
    return { table: this.table, ticks: barTicks(this.scale), title: `weight, ${word}` };
  }
}

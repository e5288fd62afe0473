// One map on screen: the raster, what stands along its axes, the crosshair. It is told what to draw and says what is pointed at.

import { h } from "./dom.js";
import { axisMarks, framedLabel, gutterFor, pixelOf, SEGMENT_BAND, segmentMarks } from "./axes.js";
import { hearPointers } from "./gestures.js";
import { paintMarks, textBox, textWidth } from "./marks.js";
import { Raster } from "./raster.js";
import { STRIP_THICK, stripMarks, stripRoom } from "./strips.js";

/**
 * @typedef {import("./viewport.js").Visible} Visible
 * @typedef {import("./viewport.js").Pair} Pair
 * @typedef {import("./marks.js").Mark} Mark
 * @typedef {import("./axes.js").AxisText} AxisText
 * @typedef {import("./axes.js").Segment} Segment
 * @typedef {import("./axes.js").Palette} Palette
 * @typedef {import("./strips.js").Strip} Strip
 * @typedef {{title: string, text: AxisText, strips: Strip[], segments: Segment[]}} Side what is drawn along one axis
 * @typedef {{q: number, k: number, strong: boolean}} Cross a row and a key, NaN for none; strong: one that is fixed
 * @typedef {{lengths: Pair, visible: Visible, queries: Side, keys: Side, scene: import("./raster.js").RasterScene,
 *   crosses: Cross[], numbers: (area: PaneLayout) => Mark[], palette: Palette}} Drawing
 * @typedef {{queriesGutter: number, keysGutter: number, besideQueries: number, besideKeys: number}} PaneRoom
 * @typedef {{left: number, top: number, width: number, height: number, queriesGutter: number, keysGutter: number}} PaneLayout
 *   where the map itself is, and where the labels before it end
 */

const paneLeast = 40; // pixels of a map, however much its labels would take
const paneTitle = 15; // pixels of an axis's title

export class MapPane {
  /**
   * @param {string} label
   * @param {import("./gestures.js").Meaning} meaning
   * @param {{wheels: () => boolean, resized: () => void, redraw: () => void}} page
   * @param {number} [kept] textures that are kept between frames
   */
  constructor(label, meaning, page, kept) {
    this.raster = new Raster(page.redraw, kept);
    this.ink = h("canvas", { class: "pl-map-ink-layer", "aria-hidden": "true" });
    this.area = h("div", { class: "pl-map-area" }, this.raster.element);
    this.element = h(
      "div",
      { class: "pl-map-pane", tabIndex: 0, role: "application", "aria-roledescription": "attention map", "aria-label": label },
      this.area,
      this.ink,
    );
    /** @type {PaneLayout} */
    this.layout = { left: 0, top: 0, width: 1, height: 1, queriesGutter: 0, keysGutter: 0 };
    this.size = { width: 0, height: 0 };
    /** @type {[string, [number, number]] | null} */
    this.gutters = null;
    this.beside = { queries: 0, keys: 0 };
    this.stop = hearPointers(this.area, meaning, page.wheels);
    this.observer = new ResizeObserver(() => {
      this.measure();
      page.resized();
    });
    this.observer.observe(this.element);
  }

  /** Whether there is room to draw in. */
  get isShown() {
    return this.size.width > 0 && this.size.height > 0;
  }

  measure() {
    this.size = { width: this.element.clientWidth, height: this.element.clientHeight };
  }

  /** The map's height and width in pixels. @returns {Pair} */
  get pixels() {
    return { q: this.layout.height, k: this.layout.width };
  }

  /**
   * The room that what stands along the axes asks for.
   * @param {string} owner changes when the axes' texts do
   * @param {Side} queries
   * @param {Side} keys
   * @param {Pair} lengths
   * @returns {PaneRoom}
   */
  room(owner, queries, keys, lengths) {
    const most = [Math.min(150, this.size.width * 0.24), Math.min(120, this.size.height * 0.24)];
    const name = `${owner} ${most}`;
    if (this.gutters?.[0] !== name) this.gutters = [name, [gutterFor(queries.text, lengths.q, most[0]), gutterFor(keys.text, lengths.k, most[1])]];
    // A strip's name and range stand where the labels of the other axis do.
    const strips = [keys.strips, queries.strips].map((list) => list.map((strip) => stripRoom(strip.info)));
    const room = this.gutters[1].map((gutter, number) => {
      const [wanted, least] = [0, 1].map((which) => Math.max(0, ...strips[number].map((one) => one[which])));
      return Math.max(gutter, Math.min(wanted, most[number]), Math.min(least, most[number] * 2)) + paneTitle;
    });
    const [forQueries, forKeys] = room;
    const beside = (/** @type {Side} */ side) => side.strips.length * STRIP_THICK + (side.segments.length ? SEGMENT_BAND : 0);
    this.beside = { queries: beside(queries), keys: beside(keys) };
    return { queriesGutter: forQueries, keysGutter: forKeys, besideQueries: this.beside.queries, besideKeys: this.beside.keys };
  }

  /** @param {PaneRoom} room */
  arrange({ queriesGutter, keysGutter, besideQueries, besideKeys }) {
    const left = Math.round(queriesGutter + besideQueries) + 3;
    const top = Math.round(keysGutter + besideKeys) + 3;
    const area = { width: Math.max(paneLeast, this.size.width - left - 2), height: Math.max(paneLeast, this.size.height - top - 2) };
    this.layout = { left, top, ...area, queriesGutter: left - 3 - this.beside.queries, keysGutter: top - 3 - this.beside.keys };
    Object.assign(this.area.style, { left: `${left}px`, top: `${top}px`, width: `${area.width}px`, height: `${area.height}px` });
  }

  /** @param {Drawing} drawing */
  draw(drawing) {
    const ratio = Math.min(window.devicePixelRatio || 1, 3);
    this.raster.draw(drawing.scene, this.rasterSize(ratio));
    const { width, height } = this.size;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.ink.width !== wide) this.ink.width = wide;
    if (this.ink.height !== high) this.ink.height = high;
    // Kept in memory, not on the graphics card: where that is only imitated, drawing on it takes four times as long.
    const context = this.ink.getContext("2d", { willReadFrequently: true });
    if (!context) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    paintMarks(context, this.marks(drawing));
  }

  /** @param {number} ratio */
  rasterSize(ratio) {
    return { width: Math.max(1, Math.round(this.layout.width * ratio)), height: Math.max(1, Math.round(this.layout.height * ratio)) };
  }

  /**
   * Everything but the raster, in pixels of the pane.
   * @param {Drawing} drawing
   * @returns {Mark[]}
   */
  marks(drawing) {
    const { visible, lengths, queries, keys, palette } = drawing;
    const { left, top, width, height, queriesGutter, keysGutter } = this.layout;
    const down = { from: visible.q0, to: visible.q1, pixels: height, length: lengths.q, start: top, down: true };
    const along = { from: visible.k0, to: visible.k1, pixels: width, length: lengths.k, start: left, down: false };
    /** @type {Mark[]} */
    const marks = [];
    const framed = drawing.crosses.flatMap((cross) => this.crossLabels(cross, drawing, down, along));
    for (const [span, side, edge] of /** @type {const} */ ([[down, queries, queriesGutter], [along, keys, keysGutter]])) {
      const labels = axisMarks(span, side.text, { edge, gutter: edge - paneTitle }, palette);
      marks.push(...labels.filter((mark) => !("text" in mark) || !framed.some(({ box }) => paneOverlap(box, textBox(mark)))));
      marks.push(...paneAxisTitle(paneShown(span), side.title, palette));
    }
    for (const [span, side, gutter, other] of /** @type {const} */ ([[down, queries, queriesGutter, keysGutter], [along, keys, keysGutter, queriesGutter]])) {
      const shown = paneShown(span);
      side.strips.forEach((strip, number) => {
        const room = { across: gutter + 3 + number * STRIP_THICK, named: other, gutter: other - paneTitle };
        marks.push(...stripMarks(shown, strip, room, palette));
      });
      if (side.segments.length) marks.push(...segmentMarks(shown, side.segments, gutter + side.strips.length * STRIP_THICK + 1, palette));
    }
    const [right, bottom] = [paneShown(along), paneShown(down)].map((span) => span.start + span.pixels);
    marks.push({ x: left - 1, y: top - 1, width: right - left + 2, height: bottom - top + 2, stroke: palette.line });
    marks.push(...drawing.numbers(this.layout));
    for (const cross of drawing.crosses) marks.push(...this.crossMarks(cross, drawing, down, along));
    return [...marks, ...framed.flatMap((label) => label.marks)];
  }

  /**
   * @param {Cross} cross
   * @param {Drawing} drawing
   * @param {import("./axes.js").AxisSpan} down
   * @param {import("./axes.js").AxisSpan} along
   * @returns {Mark[]}
   */
  crossMarks(cross, drawing, down, along) {
    const colour = drawing.palette.mark;
    const opacity = cross.strong ? 1 : 0.7;
    /** @type {Mark[]} */
    const marks = [];
    for (const [span, place] of /** @type {const} */ ([[down, cross.q], [along, cross.k]])) {
      const [from, to] = [pixelOf(span, place), pixelOf(span, place + 1)];
      const [first, last] = [span.start, span.start + span.pixels];
      if (!paneShows(span, place)) continue;
      const other = paneShown(span.down ? along : down);
      const ends = [other.start, other.start + other.pixels];
      const edges = to - from < 4 ? [(from + to) / 2] : [from, to].filter((at) => at >= first && at <= last);
      for (const at of edges) marks.push({ points: span.down ? [ends[0], at, ends[1], at] : [at, ends[0], at, ends[1]], colour, opacity });
    }
    return marks;
  }

  /**
   * The framed labels of a crosshair on both axes.
   * @param {Cross} cross
   * @param {Drawing} drawing
   * @param {import("./axes.js").AxisSpan} down
   * @param {import("./axes.js").AxisSpan} along
   */
  crossLabels(cross, { palette, queries, keys }, down, along) {
    const { queriesGutter, keysGutter } = this.layout;
    return /** @type {const} */ ([[down, cross.q, queries, queriesGutter], [along, cross.k, keys, keysGutter]]).flatMap(([span, place, side, edge]) =>
      paneShows(span, place) ? [framedLabel(span, side.text, place, { edge, gutter: edge - paneTitle }, palette)] : [],
    );
  }

  destroy() {
    this.stop();
    this.observer.disconnect();
    this.raster.destroy();
  }
}

/**
 * The part of a span that the axis has: a square map may end before its area does.
 * @param {import("./axes.js").AxisSpan} span
 * @returns {import("./axes.js").AxisSpan}
 */
function paneShown(span) {
  const to = Math.min(span.to, span.length);
  return { ...span, to, pixels: Math.max(0, ((to - span.from) / (span.to - span.from)) * span.pixels) };
}

/** @param {import("./axes.js").AxisSpan} span @param {number} place NaN: none */
function paneShows(span, place) {
  return pixelOf(span, place + 1) > span.start && pixelOf(span, place) < span.start + span.pixels;
}

/** @typedef {{x: number, y: number, width: number, height: number}} PaneBox */

/** @param {PaneBox} a @param {PaneBox} b */
function paneOverlap(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

/**
 * What an axis is, along its middle, where that is as long as the word.
 * @param {import("./axes.js").AxisSpan} span
 * @param {string} title
 * @param {Palette} palette
 * @returns {Mark[]}
 */
function paneAxisTitle(span, title, palette) {
  if (textWidth(title, 11) > span.pixels) return [];
  const middle = span.start + span.pixels / 2;
  const at = span.down ? { x: 8, y: middle, angle: -90 } : { x: middle, y: 8 };
  return [{ text: title, ...at, anchor: "middle", size: 11, colour: palette.faint }];
}

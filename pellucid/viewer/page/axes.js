// What stands along the two axes of a map: the tokens' text where it fits, positions where it does not, and segments.

import { labelAt } from "./tokens.js";
import { MARK_SIZE, textWidth, textWithin } from "./marks.js";

/**
 * @typedef {import("./marks.js").Mark} Mark
 * @typedef {{from: number, to: number, pixels: number, length: number, start: number, down: boolean}} AxisSpan
 *   what is visible of an axis; start: its first pixel; down: the axis of queries, from top to bottom
 * @typedef {{texts: string[] | null, offset: number, special: Set<number>, place: (index: number) => string | null}} AxisText
 *   place: what stands there besides a token (seconds, a patch)
 * @typedef {{text: string, faint: string, line: string, accent: string, back: string, panel: string, mark: string}} Palette
 * @typedef {{name: string, start: number, stop: number}} Segment
 */

const axesLeast = { tokens: 10, across: 72, down: 26 }; // pixels: of a token's line, of a tick's label
export const SEGMENT_BAND = 16;

/**
 * The width that labels ask for, within a limit.
 * @param {AxisText} axis
 * @param {number} length
 * @param {number} most
 * @returns {number}
 */
export function gutterFor(axis, length, most) {
  let widest = textWidth(String(axis.offset + length));
  const step = Math.max(1, Math.floor(length / 1500));
  for (let index = 0; index < length && widest < most; index += step) widest = Math.max(widest, textWidth(axisLabel(axis, index)));
  return Math.min(Math.ceil(widest) + 10, most);
}

/**
 * The text of a place on an axis: its token; else what stands there, or the position.
 * @param {AxisText} axis
 * @param {number} index
 * @param {number} [longest]
 * @returns {string}
 */
export function axisLabel(axis, index, longest) {
  if (axis.texts?.[axis.offset + index] === undefined) return axis.place(index) ?? String(axis.offset + index);
  return labelAt(axis, index, longest);
}

/**
 * A place in full: position, token, and what else stands there.
 * @param {AxisText} axis
 * @param {number} index
 * @returns {string}
 */
export function placeInWords(axis, index) {
  const token = axis.texts?.[axis.offset + index];
  const place = axis.place(index);
  const words = [token === undefined ? null : labelAt(axis, index, 40), place].filter((part) => part !== null);
  return `${axis.offset + index}${words.length ? ` ${words.join(", ")}` : ""}`;
}

/**
 * Where a place of an axis is drawn.
 * @param {AxisSpan} span
 * @param {number} place
 * @returns {number}
 */
export function pixelOf(span, place) {
  return span.start + ((place - span.from) / (span.to - span.from)) * span.pixels;
}

/**
 * The pixels between which a place is on screen.
 * @param {AxisSpan} span
 * @param {number} place
 * @returns {[number, number]}
 */
export function visiblePart(span, place) {
  return [Math.max(span.start, pixelOf(span, place)), Math.min(span.start + span.pixels, pixelOf(span, place + 1))];
}

/**
 * How the labels of an axis stand: a token each, level or upright, or ticks here and there.
 * @param {AxisSpan} span
 * @param {AxisText} axis
 * @returns {"level" | "upright" | "ticks"}
 */
export function axisForm(span, axis) {
  const cell = span.pixels / (span.to - span.from);
  const [first, last] = axesPlaces(span);
  const named = axis.texts !== null || axis.place(first) !== null;
  if (!named || cell < axesLeast.tokens) return "ticks";
  if (span.down) return "level";
  for (let index = first; index <= last; index++) if (textWidth(axisLabel(axis, index)) >= cell - 6) return "upright";
  return "level";
}

/** Where the last place on screen ends: a map may end before its area does. @param {AxisSpan} span @returns {number} */
function axesEnd(span) {
  return Math.min(span.start + span.pixels, pixelOf(span, span.length));
}

/** @param {AxisSpan} span @returns {[number, number]} the first place that is visible, and the last */
function axesPlaces(span) {
  return [Math.max(0, Math.floor(span.from)), Math.min(span.length, Math.ceil(span.to)) - 1];
}

/**
 * The labels of an axis, ending at an edge: right-aligned for queries, upwards for keys.
 * @param {AxisSpan} span
 * @param {AxisText} axis
 * @param {{edge: number, gutter: number}} room edge: where the labels end, in pixels across the axis; gutter: what they may take
 * @param {Palette} palette
 * @returns {Mark[]}
 */
export function axisMarks(span, axis, room, palette) {
  const form = axisForm(span, axis);
  return form === "ticks" ? axesTicks(span, axis, room, palette) : axesTokens(span, axis, room, palette, form === "level");
}

/**
 * @param {AxisSpan} span
 * @param {AxisText} axis
 * @param {{edge: number, gutter: number}} room
 * @param {Palette} palette
 * @param {boolean} level
 * @returns {Mark[]}
 */
function axesTokens(span, axis, room, palette, level) {
  const cell = span.pixels / (span.to - span.from);
  const size = cell < MARK_SIZE + 1 ? MARK_SIZE - 2 : MARK_SIZE;
  const [first, last] = axesPlaces(span);
  /** @type {Mark[]} */
  const marks = [];
  for (let index = first; index <= last; index++) {
    const [from, to] = visiblePart(span, index);
    const label = axisLabel(axis, index);
    if (to - from < (level && !span.down ? textWidth(label, size) : Math.min(size, cell - 1))) continue; // it would stand over what is beside
    const colour = axis.special.has(axis.offset + index) ? palette.accent : palette.text;
    const text = level && !span.down ? label : textWithin(label, room.gutter - 6, size);
    marks.push({ ...axesLabel(text, (from + to) / 2, span.down, level, room.edge, colour), size });
  }
  return marks;
}

/**
 * @param {string} text
 * @param {number} at
 * @param {boolean} down
 * @param {boolean} level
 * @param {number} edge
 * @param {string} colour
 * @returns {import("./marks.js").TextMark}
 */
function axesLabel(text, at, down, level, edge, colour) {
  if (down) return { text, x: edge - 4, y: at, anchor: "end", colour };
  if (level) return { text, x: at, y: edge - 10, anchor: "middle", colour };
  return { text, x: at, y: edge - 4, anchor: "start", angle: -90, colour };
}

/**
 * @param {AxisSpan} span
 * @param {AxisText} axis
 * @param {{edge: number, gutter: number}} room
 * @param {Palette} palette
 * @returns {Mark[]}
 */
function axesTicks(span, axis, room, palette) {
  const least = span.down ? axesLeast.down : axesLeast.across;
  const step = roundStep(((span.to - span.from) / span.pixels) * least);
  const [first, last] = axesPlaces(span);
  const { edge } = room;
  /** @type {Mark[]} */
  const marks = [];
  for (let position = Math.ceil((axis.offset + first) / step) * step; position <= axis.offset + last; position += step) {
    const index = position - axis.offset;
    const at = pixelOf(span, index + 0.5);
    if (at < span.start || at > span.start + span.pixels) continue;
    const text = axesTick(axis, index, span.down ? room.gutter - 10 : least - 8);
    const half = textWidth(text) / 2;
    const along = span.down ? at : Math.max(span.start + half, Math.min(axesEnd(span) - half, at));
    marks.push(axesLabel(text, along, span.down, !span.down, edge - (span.down ? 3 : 0), palette.faint));
    marks.push({ points: span.down ? [edge - 3, at, edge, at] : [at, edge - 3, at, edge], colour: palette.faint });
  }
  return marks;
}

/**
 * The label of a place in a frame, as the labels of the axis stand, for a crosshair; and the room that it takes.
 * @param {AxisSpan} span
 * @param {AxisText} axis
 * @param {number} place
 * @param {{edge: number, gutter: number}} room
 * @param {Palette} palette
 * @returns {{box: {x: number, y: number, width: number, height: number}, marks: Mark[]}}
 */
export function framedLabel(span, axis, place, room, palette) {
  const form = axisForm(span, axis);
  const own = axisLabel(axis, place, 28);
  const position = String(axis.offset + place);
  const text = textWithin(form === "ticks" && own !== position && axis.place(place) === null ? `${position} ${own}` : own, span.down || form === "upright" ? room.gutter - 10 : 200);
  const [from, to] = [pixelOf(span, place), pixelOf(span, place + 1)];
  const upright = !span.down && form === "upright";
  const long = textWidth(text) + 8;
  const half = span.down || upright ? 9 : long / 2;
  const at = Math.max(span.start + half, Math.min(axesEnd(span) - half, (from + to) / 2));
  const label = axesLabel(text, at, span.down, !upright, room.edge, palette.text);
  const { edge } = room;
  const box = span.down ? { x: edge - long, y: at - 9, width: long, height: 18 } : upright ? { x: at - 9, y: edge - long, width: 18, height: long } : { x: at - half, y: edge - 19, width: long, height: 18 };
  return { box, marks: [{ ...box, fill: palette.back, stroke: palette.mark }, label] };
}

/**
 * A position, and the token there if there is room for both; or what else stands there.
 * @param {AxisText} axis
 * @param {number} index
 * @param {number} room
 */
function axesTick(axis, index, room) {
  const position = String(axis.offset + index);
  const place = axis.place(index);
  if (place !== null) return textWithin(place, room);
  const named = axis.texts?.[axis.offset + index] === undefined ? position : `${position} ${labelAt(axis, index)}`;
  return textWidth(named) <= room ? named : position;
}

/**
 * The least of 1, 2, 5, 10, 20, … that is at least so large.
 * @param {number} least
 * @returns {number}
 */
export function roundStep(least) {
  if (least <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * (1 - 1e-9)) ?? power * 10;
}

/**
 * The named segments of an axis as a band.
 * @param {AxisSpan} span
 * @param {Segment[]} segments
 * @param {number} across where the band begins
 * @param {Palette} palette
 * @returns {Mark[]}
 */
export function segmentMarks(span, segments, across, palette) {
  /** @type {Mark[]} */
  const marks = [];
  const thick = SEGMENT_BAND - 2;
  segments.forEach(({ name, start, stop }, number) => {
    const from = Math.max(span.start, pixelOf(span, start));
    const to = Math.min(span.start + span.pixels, pixelOf(span, stop));
    if (to - from < 0.5) return;
    const size = span.down ? { x: across, y: from, width: thick, height: to - from } : { x: from, y: across, width: to - from, height: thick };
    marks.push({ ...size, fill: number % 2 ? palette.panel : palette.line, stroke: palette.line });
    const text = textWithin(name, to - from - 6, MARK_SIZE - 2);
    const at = { x: size.x + size.width / 2, y: size.y + size.height / 2 };
    if (text) marks.push({ text, ...at, anchor: "middle", angle: span.down ? -90 : 0, size: MARK_SIZE - 2, colour: palette.text });
  });
  return marks;
}

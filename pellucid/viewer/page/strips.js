// Readings along the axes of a map, such as entropy of queries and what keys receive: they share the map's zoom.

import { textLines, textWidth, textWithin } from "./marks.js";

/**
 * @typedef {import("./marks.js").Mark} Mark
 * @typedef {import("./axes.js").AxisSpan} AxisSpan
 * @typedef {import("./axes.js").Palette} Palette
 * @typedef {{info: import("./client.js").StripInfo, values: Float32Array | null, refused: string | null}} Strip
 * @typedef {{low: number, high: number}} StripRange
 */

export const STRIP_THICK = 38;

/**
 * The readings that are shown: those that the state names, else entropy and received where there.
 * @param {import("./client.js").LayerInfo} layer
 * @param {string | undefined} named
 * @returns {import("./client.js").StripInfo[]}
 */
export function chosenStrips(layer, named) {
  const names = (named ?? "entropy,received").split(",");
  return layer.strips.filter((strip) => names.includes(strip.name));
}

/**
 * From 0, or what is less, to the largest of a stretch of values: one that is far from all others leaves room for them where
 * it is not in sight.
 * @param {Float32Array} values
 * @param {number} from
 * @param {number} to
 * @returns {StripRange}
 */
export function stripRange(values, from, to) {
  let [low, high] = [0, -Infinity];
  for (const value of values.subarray(Math.max(0, Math.floor(from + 1e-9)), Math.max(0, Math.ceil(to - 1e-9)))) {
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return { low, high: high > low ? high : low + 1 };
}

/**
 * What a reading says of one place: "entropy 0.45 nats"; nothing where it has no value.
 * @param {Strip} strip
 * @param {number} place
 * @returns {string}
 */
export function stripWords({ info, values }, place) {
  const value = values?.[place] ?? NaN;
  return Number.isFinite(value) ? `${info.name.replaceAll("_", " ")} ${stripNumber(value)} ${info.unit}`.trimEnd() : "";
}

/**
 * A number of a reading in few digits.
 * @param {number} value
 * @returns {string}
 */
export function stripNumber(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

/**
 * The mean and the largest of each pixel along a stretch of values; NaN where no value is finite.
 * @param {Float32Array} values
 * @param {number} from
 * @param {number} to
 * @param {number} pixels
 * @returns {{mean: Float32Array, most: Float32Array}}
 */
export function byPixel(values, from, to, pixels) {
  const mean = new Float32Array(pixels).fill(NaN);
  const most = new Float32Array(pixels).fill(NaN);
  const each = (to - from) / pixels;
  for (let pixel = 0; pixel < pixels; pixel++) {
    const first = Math.floor(from + pixel * each + 1e-9);
    const stop = Math.max(first + 1, Math.floor(from + (pixel + 1) * each + 1e-9));
    let [sum, count, largest] = [0, 0, -Infinity];
    for (let i = Math.max(first, 0); i < Math.min(stop, values.length); i++) {
      const value = values[i];
      if (!Number.isFinite(value)) continue;
      sum += value;
      count++;
      if (value > largest) largest = value;
    }
    if (!count) continue;
    mean[pixel] = sum / count;
    most[pixel] = largest;
  }
  return { mean, most };
}

/**
 * A strip beside the map, with its name and range before it.
 * @param {AxisSpan} span
 * @param {Strip} strip
 * @param {{across: number, named: number, gutter: number}} room across: where it begins across the axis; named: where its name ends
 * @param {Palette} palette
 * @returns {Mark[]}
 */
export function stripMarks(span, strip, room, palette) {
  const pixels = Math.max(1, Math.round(span.pixels));
  const thick = STRIP_THICK - 6;
  const range = strip.values && stripRange(strip.values, span.from, span.to);
  /** @type {Mark[]} */
  const marks = [stripFrame(span, room.across, thick, palette), ...stripName(strip, range, room, thick, span.down, palette)];
  if (!strip.values || !range) return marks;
  const { mean, most } = byPixel(strip.values, span.from, span.to, pixels);
  const height = (/** @type {number} */ value) => ((value - range.low) / (range.high - range.low)) * thick;
  const whole = { span, pixels, across: room.across, thick };
  marks.push(...stripAreas(whole, most, height, palette.accent, 0.35), ...stripAreas(whole, mean, height, palette.accent, 1));
  return marks;
}

/** @param {AxisSpan} span @param {number} across @param {number} thick @param {Palette} palette @returns {Mark} */
function stripFrame(span, across, thick, palette) {
  const { start, pixels } = span;
  const at = span.down ? { x: across, y: start, width: thick, height: pixels } : { x: start, y: across, width: pixels, height: thick };
  return { ...at, fill: palette.panel };
}

/**
 * @param {Strip} strip
 * @param {StripRange | null} between
 * @param {{across: number, named: number, gutter: number}} room
 * @param {number} thick
 * @param {boolean} down
 * @param {Palette} palette
 * @returns {Mark[]}
 */
function stripName(strip, between, room, thick, down, palette) {
  const range = strip.refused ?? (between ? `${stripNumber(between.low)} – ${stripNumber(between.high)}` : "asking …");
  const { lines, size } = stripLines(strip.info.name.replaceAll("_", " "), range, strip.values ? strip.info.unit : "", room.gutter - 6);
  return lines.map(({ text, faint }, number) => {
    const colour = faint ? palette.faint : palette.text;
    const off = room.across + thick / 2 + (number - (lines.length - 1) / 2) * (size + (lines.length > 2 ? 1 : 3));
    if (down) return { text, x: off, y: room.named - 2, anchor: "start", angle: -90, size, colour };
    return { text, x: room.named - 4, y: off, anchor: "end", size, colour };
  });
}

/**
 * A strip's name and range in two lines, or in three smaller ones; they are cut only where no letters are small enough.
 * @param {string} name
 * @param {string} range
 * @param {string} unit
 * @param {number} width
 * @returns {{lines: {text: string, faint: boolean}[], size: number}}
 */
export function stripLines(name, range, unit, width) {
  const whole = `${range} ${unit}`.trim();
  for (const size of [11, 10, 9, 8]) {
    const names = [[name], textLines(name, width, size)];
    for (const named of names) {
      for (const ranged of [[whole], [range, unit]]) {
        const lines = [...named.map((text) => ({ text, faint: false })), ...ranged.map((text) => ({ text, faint: true }))].filter(({ text }) => text);
        const few = lines.length <= 2 || (lines.length === 3 && size <= 10);
        if (few && lines.every(({ text }) => textWidth(text, size) <= width)) return { lines, size };
      }
    }
  }
  return { lines: [{ text: textWithin(name, width, 9), faint: false }, { text: textWithin(whole, width, 9), faint: true }], size: 9 };
}

/**
 * The room that the name and range of a strip want, and what they can be brought into, whatever its values are.
 * @param {import("./client.js").StripInfo} info
 * @returns {[number, number]}
 */
export function stripRoom({ name, unit }) {
  const [words, range] = [name.replaceAll("_", " "), "0 – 88.8"];
  const widest = (/** @type {number} */ size, /** @type {string[]} */ texts) => Math.ceil(Math.max(...texts.map((text) => textWidth(text, size)))) + 8;
  return [widest(11, [words, `${range} ${unit}`]), widest(9, [range, unit, words.length > 14 ? words.slice(0, Math.ceil(words.length * 0.7)) : words])];
}

/**
 * Filled areas under a curve, apart where it has gaps.
 * @param {{span: AxisSpan, pixels: number, across: number, thick: number}} whole
 * @param {Float32Array} values
 * @param {(value: number) => number} height
 * @param {string} fill
 * @param {number} opacity
 * @returns {Mark[]}
 */
function stripAreas({ span, pixels, across, thick }, values, height, fill, opacity) {
  /** @type {Mark[]} */
  const areas = [];
  const point = (/** @type {number} */ along, /** @type {number} */ up) =>
    span.down ? [across + up, span.start + along] : [span.start + along, across + thick - up];
  for (let first = 0; first < pixels; first++) {
    if (Number.isNaN(values[first])) continue;
    const points = [...point(first, 0)];
    let pixel = first;
    for (; pixel < pixels && !Number.isNaN(values[pixel]); pixel++) {
      const up = height(values[pixel]);
      if (pixel > first && values[pixel] === values[pixel - 1] && pixel + 1 < pixels && values[pixel] === values[pixel + 1]) continue;
      points.push(...point(pixel, up), ...point(pixel + 1, up));
    }
    points.push(...point(pixel, 0));
    areas.push({ points, fill, opacity });
    first = pixel;
  }
  return areas;
}

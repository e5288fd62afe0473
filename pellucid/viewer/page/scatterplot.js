// Heads as points of two numbers, drawn as an SVG that carries its own colours: on screen and in a saved picture.

import { svg } from "./dom.js";
import { shownApart } from "./headmodel.js";
import { kindLook } from "./kinds.js";
import { textWidth, textWithin } from "./marks.js";

/**
 * @typedef {{id: string, x: number, y: number, size: number | null, kind: string}} PlotPoint
 * @typedef {{points: PlotPoint[], x: string[], y: string[], size: string}} Plot titles of the axes, the longest that fits is
 *   drawn, and of the size ("": all alike)
 * @typedef {{text: string, faint: string, line: string, back: string}} PlotLook
 * @typedef {{element: SVGElement, places: Map<string, {x: number, y: number, r: number}>}} Plotted where each head's point stands
 */

const plotMargins = { left: 24, right: 14, top: 12, bottom: 44 }; // left: besides the ticks' numbers
const plotSize = 11;

/**
 * Round numbers from low to high, about so many.
 * @param {number} low
 * @param {number} high
 * @param {number} about
 * @returns {number[]}
 */
export function roundTicks(low, high, about) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(span / about));
  const step = [1, 2, 5, 10].map((times) => times * power).find((one) => span / one <= about) ?? span;
  const first = Math.ceil(low / step - 1e-9);
  const ticks = [];
  for (let i = first; i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

/**
 * The ends of an axis: a little beyond the values, 0 to 1 for what lies there and reaches far.
 * @param {number[]} values
 * @returns {[number, number]}
 */
export function axisEnds(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (!(high >= low)) return [0, 1];
  const pad = (high - low || Math.abs(high) || 1) * 0.05;
  return [low >= 0 && low < (high - low) * 0.5 ? -pad : low - pad, high + pad];
}

/**
 * Ticks of an axis with their texts, as many as stand apart.
 * @param {[number, number]} ends
 * @param {number} most
 * @param {(texts: string[], ticks: number[]) => boolean} fits
 * @returns {{ticks: number[], texts: string[]}}
 */
export function plotTicks([low, high], most, fits) {
  for (let about = Math.max(2, Math.floor(most)); ; about--) {
    const ticks = roundTicks(low, high, about);
    const texts = shownApart(ticks);
    if (about <= 1 || fits(texts, ticks)) return { ticks, texts };
  }
}

/**
 * @typedef {{left: number, floor: number, wall: number, across: (x: number) => number, up: (y: number) => number,
 *   xs: {ticks: number[], texts: string[]}, ys: {ticks: number[], texts: string[]}}} PlotFrame
 */

/**
 * Where everything stands: the numbers of the ticks say how much room they take.
 * @param {Plot} plot
 * @param {{width: number, height: number}} box
 * @returns {PlotFrame}
 */
function plotFrame(plot, box) {
  const { right, top, bottom } = plotMargins;
  const [floor, wall] = [box.height - bottom, box.width - right];
  const [x, y] = [axisEnds(plot.points.map((point) => point.x)), axisEnds(plot.points.map((point) => point.y))];
  const ys = plotTicks(y, (floor - top) / 40, () => true);
  const widest = (/** @type {string[]} */ texts) => Math.max(0, ...texts.map((text) => textWidth(text, plotSize)));
  const left = plotMargins.left + Math.ceil(widest(ys.texts)) + 8;
  const across = (/** @type {number} */ value) => left + ((value - x[0]) / (x[1] - x[0])) * (wall - left);
  const up = (/** @type {number} */ value) => floor - ((value - y[0]) / (y[1] - y[0])) * (floor - top);
  const xs = plotTicks(x, (wall - left) / 60, (texts, ticks) => ticks.length < 2 || across(ticks[1]) - across(ticks[0]) > widest(texts) + 8);
  return { left, floor, wall, across, up, xs, ys };
}

/**
 * @param {Plot} plot
 * @param {{width: number, height: number}} box
 * @param {PlotLook} look
 * @returns {Plotted}
 */
export function plotPoints(plot, box, look) {
  const frame = plotFrame(plot, box);
  const { across, up } = frame;
  const sizes = axisEnds(plot.points.flatMap((point) => (point.size === null ? [] : [point.size])));
  const radius = (/** @type {number | null} */ size) => (!plot.size ? 6 : size === null ? 4 : 4 + 8 * Math.sqrt(Math.max(0, (size - Math.max(sizes[0], 0)) / (sizes[1] - Math.max(sizes[0], 0)))));
  const places = new Map(plot.points.map((point) => [point.id, { x: across(point.x), y: up(point.y), r: radius(point.size) }]));
  const ordered = [...plot.points].sort((a, b) => (places.get(b.id)?.r ?? 0) - (places.get(a.id)?.r ?? 0));
  const letters = ordered.length <= 1500;
  const element = svg(
    "svg",
    { width: box.width, height: box.height, viewBox: `0 0 ${box.width} ${box.height}`, "font-family": "system-ui, sans-serif", "font-size": plotSize },
    plotAxes(frame, plot, box, look),
    ordered.map((point) => plotPoint(point, /** @type {any} */ (places.get(point.id)), look, letters)),
  );
  return { element, places };
}

/**
 * @param {PlotFrame} frame
 * @param {Plot} plot
 * @param {{width: number, height: number}} box
 * @param {PlotLook} look
 */
function plotAxes({ left, floor, wall, across, up, xs, ys }, plot, box, look) {
  const { top } = plotMargins;
  const text = (/** @type {Record<string, string | number>} */ at, /** @type {string} */ shown, fill = look.faint) => svg("text", { fill, ...at }, shown);
  const rule = (/** @type {number[]} */ [x1, y1, x2, y2]) => svg("line", { x1, y1, x2, y2, stroke: look.line, "stroke-width": 1 });
  const within = (/** @type {number} */ x, /** @type {string} */ shown) => Math.min(x, box.width - textWidth(shown, plotSize) / 2 - 1);
  return [
    rule([left, floor, wall, floor]),
    rule([left, top, left, floor]),
    ...xs.ticks.flatMap((x, at) => [rule([across(x), floor, across(x), floor + 4]), text({ x: within(across(x), xs.texts[at]), y: floor + 16, "text-anchor": "middle" }, xs.texts[at])]),
    ...ys.ticks.flatMap((y, at) => [rule([left - 4, up(y), left, up(y)]), text({ x: left - 7, y: up(y) + 4, "text-anchor": "end" }, ys.texts[at])]),
    text({ x: (left + wall) / 2, y: box.height - 8, "text-anchor": "middle" }, plotTitle(plot.x, wall - left), look.text),
    text({ transform: `translate(12 ${(top + floor) / 2}) rotate(-90)`, "text-anchor": "middle" }, plotTitle(plot.y, floor - top), look.text),
  ];
}

/**
 * @param {string[]} titles
 * @param {number} room in pixels
 * @returns {string} the longest that fits, or the last one cut
 */
function plotTitle(titles, room) {
  return titles.find((one) => textWidth(one, plotSize) <= room) ?? textWithin(titles.at(-1) ?? "", room, plotSize);
}

/**
 * @param {PlotPoint} point
 * @param {{x: number, y: number, r: number}} at
 * @param {PlotLook} look
 * @param {boolean} letters
 */
function plotPoint(point, at, look, letters) {
  const { letter, colour, text } = kindLook(point.kind);
  const circle = svg("circle", { cx: at.x, cy: at.y, r: at.r, fill: colour, "fill-opacity": 0.85, stroke: look.text, "stroke-width": 0.7 });
  if (!letters || at.r < 5) return circle;
  const size = Math.min(at.r * 1.5, 11);
  return svg("g", {}, circle, svg("text", { x: at.x, y: at.y + size * 0.36, "text-anchor": "middle", "font-size": size, fill: text }, letter));
}

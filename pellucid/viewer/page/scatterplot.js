// Heads as points of two numbers, drawn as an SVG that carries its own colours: on screen and in a saved picture.

import { svg } from "./dom.js";
import { shownNumber } from "./headmodel.js";
import { kindLook } from "./kinds.js";

/**
 * @typedef {{id: string, x: number, y: number, size: number | null, kind: string}} PlotPoint
 * @typedef {{points: PlotPoint[], x: string[], y: string[], size: string}} Plot titles of the axes, the longest that fits is
 *   drawn, and of the size ("": all alike)
 * @typedef {{text: string, faint: string, line: string, back: string}} PlotLook
 * @typedef {{element: SVGElement, places: Map<string, {x: number, y: number, r: number}>}} Plotted where each head's point stands
 */

const plotMargins = { left: 52, right: 14, top: 12, bottom: 44 };

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
 * @param {Plot} plot
 * @param {{width: number, height: number}} box
 * @param {PlotLook} look
 * @returns {Plotted}
 */
export function plotPoints(plot, box, look) {
  const { left, right, top, bottom } = plotMargins;
  const [xLow, xHigh] = axisEnds(plot.points.map((point) => point.x));
  const [yLow, yHigh] = axisEnds(plot.points.map((point) => point.y));
  const across = (/** @type {number} */ x) => left + ((x - xLow) / (xHigh - xLow)) * (box.width - left - right);
  const up = (/** @type {number} */ y) => box.height - bottom - ((y - yLow) / (yHigh - yLow)) * (box.height - top - bottom);
  const sizes = axisEnds(plot.points.flatMap((point) => (point.size === null ? [] : [point.size])));
  const radius = (/** @type {number | null} */ size) => (!plot.size ? 6 : size === null ? 4 : 4 + 8 * Math.sqrt(Math.max(0, (size - Math.max(sizes[0], 0)) / (sizes[1] - Math.max(sizes[0], 0)))));
  const places = new Map(plot.points.map((point) => [point.id, { x: across(point.x), y: up(point.y), r: radius(point.size) }]));
  const ordered = [...plot.points].sort((a, b) => (places.get(b.id)?.r ?? 0) - (places.get(a.id)?.r ?? 0));
  const letters = ordered.length <= 1500;
  const element = svg(
    "svg",
    { width: box.width, height: box.height, viewBox: `0 0 ${box.width} ${box.height}`, "font-family": "system-ui, sans-serif", "font-size": 11 },
    plotAxes({ xLow, xHigh, yLow, yHigh, across, up }, plot, box, look),
    ordered.map((point) => plotPoint(point, /** @type {any} */ (places.get(point.id)), look, letters)),
  );
  return { element, places };
}

/**
 * @param {{xLow: number, xHigh: number, yLow: number, yHigh: number, across: (x: number) => number, up: (y: number) => number}} axes
 * @param {Plot} plot
 * @param {{width: number, height: number}} box
 * @param {PlotLook} look
 */
function plotAxes(axes, plot, box, look) {
  const { left, right, top, bottom } = plotMargins;
  const [floor, wall] = [box.height - bottom, box.width - right];
  const text = (/** @type {Record<string, string | number>} */ at, /** @type {string} */ shown, fill = look.faint) => svg("text", { fill, ...at }, shown);
  const rule = (/** @type {number[]} */ [x1, y1, x2, y2]) => svg("line", { x1, y1, x2, y2, stroke: look.line, "stroke-width": 1 });
  const xs = roundTicks(axes.xLow, axes.xHigh, Math.max(2, (wall - left) / 60));
  const ys = roundTicks(axes.yLow, axes.yHigh, Math.max(2, (floor - top) / 40));
  return [
    rule([left, floor, wall, floor]),
    rule([left, top, left, floor]),
    ...xs.flatMap((x) => [rule([axes.across(x), floor, axes.across(x), floor + 4]), text({ x: axes.across(x), y: floor + 16, "text-anchor": "middle" }, shownNumber(x))]),
    ...ys.flatMap((y) => [rule([left - 4, axes.up(y), left, axes.up(y)]), text({ x: left - 7, y: axes.up(y) + 4, "text-anchor": "end" }, shownNumber(y))]),
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
  const most = Math.max(8, Math.floor(room / 5.6));
  const title = titles.find((one) => one.length <= most) ?? titles.at(-1) ?? "";
  return title.length > most ? `${title.slice(0, most - 1)}…` : title;
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

// Small drawings of a head over a corpus: a number's histogram with its quantiles, bars, and the map by position.

import { h, svg } from "./dom.js";
import { shownNumber } from "./headmodel.js";
import { inThousands } from "./profilemodel.js";
import { plotTicks } from "./scatterplot.js";
import { textWidth } from "./marks.js";

/**
 * @typedef {import("./profilemodel.js").Spread} Spread
 * @typedef {import("./profilemodel.js").Mass} Mass
 */

const chartText = 11;

/**
 * A histogram with the mean and the quantiles below it.
 * @param {Spread} spread
 * @param {string} title
 * @param {number} width
 */
export function histogramChart(spread, title, width) {
  const { edges, counts } = spread.histogram;
  const [left, right, top, floor] = [10, 10, 6, 110];
  const most = Math.max(...counts, 1);
  const place = chartPlaces(edges, left, width - right);
  const bars = counts.map((count, at) => {
    const [from, to] = [place(edges[at]), place(edges[at + 1])];
    const tall = (count / most) * (floor - top);
    return svg("rect", { class: "pl-bar", x: from + 0.5, width: Math.max(to - from - 1, 0.5), y: floor - tall, height: tall }, svg("title", {}, `${inThousands(count)} documents from ${shownNumber(edges[at])} to ${shownNumber(edges[at + 1])}`));
  });
  return svg(
    "svg",
    { class: "pl-histogram", width, height: 156, viewBox: `0 0 ${width} 156`, role: "img", "aria-label": histogramSaid(spread, title), "font-size": chartText },
    bars,
    svg("line", { class: "pl-axis", x1: left, x2: width - right, y1: floor, y2: floor }),
    histogramTicks(edges, place, floor),
    histogramQuantiles(spread, place, edges, floor + 30),
  );
}

/**
 * @param {Spread} spread
 * @param {string} title
 */
function histogramSaid(spread, title) {
  const { quantiles: q } = spread;
  return `${title} in ${inThousands(spread.documents)} documents: mean ${shownNumber(spread.mean)}, median ${shownNumber(q["0.5"])}, from ${shownNumber(q["0.05"])} to ${shownNumber(q["0.95"])} in nine tenths of them`;
}

/**
 * Where a value stands: bins are as wide as their values, or, of those that double, all alike.
 * @param {number[]} edges
 * @param {number} left
 * @param {number} right
 * @returns {(value: number) => number}
 */
function chartPlaces(edges, left, right) {
  const step = (right - left) / Math.max(edges.length - 1, 1);
  return (value) => {
    const clamped = Math.min(Math.max(value, edges[0]), edges[edges.length - 1]);
    const at = Math.max(0, edges.findLastIndex((edge) => edge <= clamped));
    const within = at + 1 < edges.length ? (clamped - edges[at]) / (edges[at + 1] - edges[at]) : 0;
    return left + (at + within) * step;
  };
}

/**
 * @param {number[]} edges
 * @param {(value: number) => number} place
 * @param {number} floor
 */
function histogramTicks(edges, place, floor) {
  const ends = /** @type {[number, number]} */ ([edges[0], edges[edges.length - 1]]);
  const apart = (/** @type {string[]} */ texts, /** @type {number[]} */ ticks) => ticks.every((tick, at) => !at || place(tick) - place(ticks[at - 1]) > textWidth(texts[at], chartText) + 8);
  const { ticks, texts } = plotTicks(ends, 8, apart);
  return ticks.map((tick, at) => svg("g", {}, svg("line", { class: "pl-axis", x1: place(tick), x2: place(tick), y1: floor, y2: floor + 4 }), svg("text", { class: "pl-axis-text", x: Math.max(place(tick), textWidth(texts[at], chartText) / 2), y: floor + 16, "text-anchor": "middle" }, texts[at])));
}

/**
 * Five quantiles as a box, and the mean as a point.
 * @param {Spread} spread
 * @param {(value: number) => number} place
 * @param {number[]} edges
 * @param {number} y
 */
function histogramQuantiles(spread, place, edges, y) {
  const at = (/** @type {string} */ share) => place(spread.quantiles[share] ?? edges[0]);
  const [low, lower, middle, upper, high] = ["0.05", "0.25", "0.5", "0.75", "0.95"].map(at);
  return svg(
    "g",
    {},
    svg("title", {}, histogramSaid(spread, "")),
    svg("line", { class: "pl-box-line", x1: low, x2: high, y1: y, y2: y }),
    svg("rect", { class: "pl-box", x: lower, y: y - 6, width: Math.max(upper - lower, 1), height: 12 }),
    svg("line", { class: "pl-box-line", x1: middle, x2: middle, y1: y - 6, y2: y + 6, "stroke-width": 2 }),
    svg("circle", { class: "pl-box-mean", cx: place(spread.mean ?? edges[0]), cy: y, r: 3.5 }),
  );
}

/**
 * A histogram in a line of text.
 * @param {Spread} spread
 */
export function sparkChart(spread) {
  const { counts } = spread.histogram;
  const most = Math.max(...counts, 1);
  const [width, height] = [90, 18];
  const step = width / counts.length;
  const bars = counts.map((count, at) => svg("rect", { class: "pl-bar", x: at * step, width: Math.max(step - 0.5, 0.5), y: height - (count / most) * height, height: (count / most) * height }));
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, bars);
}

/**
 * Weight on some kinds of keys, beside how many of all keys they are.
 * @param {Mass[]} masses
 * @param {string} heading
 * @param {(name: string) => string} shown
 */
export function massChart(masses, heading, shown) {
  const bar = (/** @type {Mass} */ { mass, equal }) =>
    h("span", { class: "pl-mass", "aria-hidden": "true" }, h("span", { class: "pl-mass-bar", style: { width: inWidth(mass) } }), equal === null ? null : h("span", { class: "pl-mass-mark", style: { left: inWidth(equal) } }));
  const rows = masses.map((one) => h("tr", {}, h("th", { scope: "row" }, shown(one.name)), h("td", {}, shownNumber(one.mass)), h("td", {}, one.equal === null ? "–" : shownNumber(one.equal)), h("td", { class: "pl-wide" }, bar(one))));
  const headings = [heading, "weight", "equal weights", ""].map((text) => h("th", { scope: "col", title: text === "equal weights" ? "what equal weights on all keys that each query may look at would put there; the mark in the bar" : "" }, text));
  return h("table", { class: "pl-masses" }, h("thead", {}, h("tr", {}, headings)), h("tbody", {}, rows));
}

/** @param {number} share */
function inWidth(share) {
  return `${Math.min(Math.max(share, 0), 1) * 100}%`;
}

/**
 * The mean weight of the rows of each sixteenth of a document on the keys of each.
 * @param {(number | null)[][]} rows
 */
export function positionChart(rows) {
  const most = Math.max(...rows.flat().map((value) => value ?? 0), 1e-12);
  const cell = 11;
  const cells = rows.flatMap((row, y) =>
    row.map((value, x) =>
      value === null
        ? null
        : svg("rect", { class: "pl-cell", x: x * cell, y: y * cell, width: cell - 0.5, height: cell - 0.5, "fill-opacity": Math.sqrt(value / most) }, svg("title", {}, `queries in part ${y + 1} of 16 put ${shownNumber(value)} on keys in part ${x + 1}`)),
    ),
  );
  const side = cell * 16;
  return svg("svg", { class: "pl-positions", width: side, height: side, viewBox: `0 0 ${side} ${side}`, role: "img", "aria-label": "mean weight by the parts of a document: queries downward, keys to the right" }, cells);
}

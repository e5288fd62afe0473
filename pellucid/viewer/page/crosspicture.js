// The picture of two texts: both under their headings, the lines between them, and how strong a line is for which weight.

import { inDigits } from "./colour.js";
import { Figure } from "./figure.js";
import { lineStrength } from "./links.js";
import { textWidth } from "./marks.js";
import { pictureName } from "./picturename.js";
import { FIGURE_EDGE, figureColours, figureFoot, figureHead, figurePane, paneHeight } from "./textfigure.js";

/**
 * @typedef {import("./cross.js").CrossView} CrossView
 * @typedef {import("./textfigure.js").FootPart} FootPart
 * @typedef {{left: number, right: number, bottom: number}} CrossBounds in pixels of the body
 */

const crossHeading = { size: 13, room: 24 }; // pixels of their letters, and above the texts
const crossSample = 30; // pixels of a line that shows how strong one is

/**
 * What stands above the two texts.
 * @param {import("./client.js").LayerInfo | undefined} layer
 * @returns {[string, string]}
 */
export function crossHeadings(layer) {
  const translates = layer?.tokens.queries === "own" && layer.tokens.keys === "source";
  return translates ? ["Queries (target): what reads", "Keys (source): what is read"] : ["Queries: what reads", "Keys: what is read"];
}

/**
 * @param {CrossView} view
 * @param {"png" | "svg"} kind
 */
export function crossPicture(view, kind) {
  const { queries, keys, reader } = view;
  if (!queries || !keys || !reader.chosen) return Promise.reject(new Error("the texts are not here yet"));
  const { back, text, mark } = figureColours(view.page.root);
  const lines = view.linesInSight();
  const headings = crossHeadings(reader.chosen.layer);
  const { left, right, bottom } = crossBounds(view, headings);
  const figure = new Figure(Math.max(right - left + 2 * FIGURE_EDGE, 420), 0, back);
  const across = Math.max(FIGURE_EDGE, (figure.width - (right - left)) / 2) - left;
  const top = figureHead(figure, view.page, reader, view.links.message || view.manyInWords()) + crossHeading.room;
  const body = view.body.getBoundingClientRect();
  const panes = [queries, keys].map((pane) => ({ pane, box: pane.element.getBoundingClientRect() }));
  const held = (/** @type {number} */ y) => Math.max(-2, Math.min(y, bottom));
  for (const line of lines) figure.add({ ...line, points: line.points.map(([x, y]) => [x + across, held(y) + top]) });
  panes.forEach(({ pane, box }, number) => {
    const isEnd = view.column && number === 0;
    const x = across + (isEnd ? box.right - 12 : box.left + 12) - body.left;
    const y = top + box.top - body.top - 4;
    if (!view.column) figure.add({ kind: "box", x: x - 3, y: y - 14, width: textWidth(headings[number], crossHeading.size, true) + 6, height: 18, fill: back }); // lines run there
    figure.add({ kind: "text", x, y, text: headings[number], fill: text, size: crossHeading.size, bold: true, end: isEnd });
    figurePane(figure, pane, across + box.left - body.left, top + box.top - body.top, text, mark);
  });
  figureFoot(figure, view.page, reader, reader.shown ? reader.ink : null, top + bottom, crossSamples(view, text));
  return figure.picture(kind, pictureName(reader.chosen.record, [reader.chosen], "two-texts", kind));
}

/**
 * What of the body holds something.
 * @param {CrossView} view
 * @param {[string, string]} headings
 * @returns {CrossBounds}
 */
function crossBounds(view, headings) {
  const body = view.body.getBoundingClientRect();
  const panes = /** @type {import("./textpane.js").TextPane[]} */ ([view.queries, view.keys]);
  const boxes = panes.map((pane) => pane.element.getBoundingClientRect());
  const bottom = Math.max(...panes.map((pane, number) => boxes[number].top - body.top + paneHeight(pane)));
  if (!view.column) return { left: 0, right: body.width, bottom };
  const wide = headings.map((heading) => textWidth(heading, crossHeading.size, true) + 12);
  let [left, right] = [boxes[0].right - wide[0], boxes[1].left + wide[1]];
  for (const pane of panes) {
    for (const line of pane.rendered.values()) {
      for (const span of line.children) {
        const box = span.getBoundingClientRect();
        [left, right] = [Math.min(left, box.left), Math.max(right, box.right)];
      }
    }
  }
  return { left: Math.max(left - body.left, 0), right: Math.min(right - body.left, body.width), bottom };
}

/**
 * Lines of some weights, as they are drawn.
 * @param {CrossView} view
 * @param {string} fill
 * @returns {FootPart[]}
 */
function crossSamples(view, fill) {
  const { scale, stroke } = view.lineLook;
  const part = (/** @type {string} */ words, /** @type {string} */ colour, /** @type {{width: number, opacity: number}} */ strength) => ({
    width: crossSample + 6 + textWidth(words, 11),
    draw: (/** @type {Figure} */ figure, /** @type {number} */ x, /** @type {number} */ y) => {
      figure.add({ kind: "line", points: [[x, y - 4], [x + crossSample, y - 4]], stroke: colour, ...strength });
      figure.add({ kind: "text", x: x + crossSample + 6, y, text: words, fill, size: 11 });
    },
  });
  const weights = scale.high > view.least ? [view.least, (view.least + scale.high) / 2, scale.high] : [view.least];
  const samples = weights.map((weight, number) => part(`${number ? "" : "weight "}${inDigits(weight)}`, stroke, lineStrength(Math.log(weight), scale)));
  return view.path ? [...samples, part("the alignment", fill, { width: 2.5, opacity: 0.85 })] : samples;
}

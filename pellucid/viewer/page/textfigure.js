// Pictures of text: the tokens in sight with their colours, a title, the colour bar, and what is exact.

import { inDigits } from "./colour.js";
import { placeName } from "./axistexts.js";
import { Figure } from "./figure.js";
import { FIXED_COLOURS } from "./ink.js";
import { READER_EACH } from "./reader.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./reader.js").Reader} Reader
 * @typedef {import("./textpane.js").TextPane} TextPane
 */

/**
 * The colours of the page that a picture needs.
 * @param {HTMLElement} root
 */
export function figureColours(root) {
  const style = getComputedStyle(root);
  const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  return { back: colour("--pl-back"), text: colour("--pl-text"), faint: colour("--pl-faint"), mark: colour("--pl-mark"), line: colour("--pl-line") };
}

/**
 * What a picture is of, in a line.
 * @param {import("./app.js").Chosen} chosen
 */
export function figureTitle(chosen) {
  const numbers = chosen.heads.map((head) => chosen.layer.head_numbers[head] ?? head);
  const heads = numbers.length === 1 ? `head ${numbers[0]}` : `${chosen.place.over === "max" ? "largest" : "mean"} of ${numbers.length} heads`;
  return `${chosen.record.title}, ${chosen.layer.name}, ${heads}`;
}

/**
 * A title above and a colour bar below of what stands between.
 * @param {Figure} figure
 * @param {Page} page
 * @param {Reader} reader
 * @param {import("./ink.js").Ink | null | undefined} ink of the bar; none where nothing is coloured
 */
export function figureFrame(figure, page, reader, ink) {
  const { text, faint } = figureColours(page.root);
  const chosen = /** @type {import("./app.js").Chosen} */ (reader.chosen);
  figure.add({ kind: "text", x: 16, y: 26, text: figureTitle(chosen), fill: text, size: 15, bold: true });
  figure.add({ kind: "text", x: 16, y: 46, text: reader.headline(), fill: faint, size: 12 });
  if (reader.isEach) figureKey(figure, reader, text);
  const y = figure.height - 18;
  const note = reader.shown?.known ? `exact weights of the ${reader.shown.known} strongest keys of each query` : "exact weights";
  figure.add({ kind: "text", x: figure.width - 16, y, text: note, fill: faint, size: 11, end: true });
  if (!ink || reader.isEach) return;
  for (let i = 0; i < 64; i++) figure.add({ kind: "box", x: 80 + i * 2, y: y - 9, width: 2, height: 10, fill: ink.back[i * 4 + 3] });
  figure.add({ kind: "text", x: 74, y, text: inDigits(reader.scale.low), fill: text, size: 11, end: true });
  figure.add({ kind: "text", x: 214, y, text: `${inDigits(reader.scale.high)}  weight, ${reader.scale.kind === "sqrt" ? "square root" : reader.scale.kind} scale`, fill: text, size: 11 });
}

/**
 * Which underline is whose.
 * @param {Figure} figure
 * @param {Reader} reader
 * @param {string} text
 */
function figureKey(figure, reader, text) {
  const shown = /** @type {import("./attending.js").Shown} */ (reader.shown);
  const axis = reader.axisOf(shown.direction);
  const y = figure.height - 18;
  shown.places.slice(0, READER_EACH).forEach((place, i) => {
    figure.add({ kind: "box", x: 16 + i * 150, y: y - 9, width: 10, height: 10, fill: `rgb(${FIXED_COLOURS[i].join(",")})` });
    figure.add({ kind: "text", x: 31 + i * 150, y, text: axis ? placeName(axis, place) : String(place), fill: text, size: 11 });
  });
}

/**
 * The tokens in sight of a pane, as they stand there.
 * @param {Figure} figure
 * @param {TextPane} pane
 * @param {number} x of the pane's left edge
 * @param {number} y of its top
 * @param {string} ink of text that has no colour behind it
 * @param {string} mark of fixed tokens
 */
export function figurePane(figure, pane, x, y, ink, mark) {
  const frame = pane.element.getBoundingClientRect();
  for (const line of pane.rendered.values()) {
    for (const child of line.children) {
      const span = /** @type {HTMLElement} */ (child);
      const box = span.getBoundingClientRect();
      if (box.bottom > frame.bottom + 2 || box.top < frame.top - 2 || !box.width) continue;
      const [left, top] = [x + box.left - frame.left, y + box.top - frame.top];
      const { backgroundColor: back, color } = span.style;
      const fixed = /pl-fixed|pl-pointed/.test(span.className) ? mark : undefined;
      if (back || fixed) figure.add({ kind: "box", x: left, y: top, width: box.width, height: box.height, fill: back || "none", stroke: fixed });
      figureBands(figure, span.style.backgroundImage, left, top + box.height, box.width);
      const chip = span.classList.contains("pl-place") ? 5 : 0;
      figure.add({ kind: "text", x: left + chip, y: top + box.height * 0.74, text: span.textContent ?? "", fill: color || ink, size: 16, width: box.width - 2 * chip });
    }
  }
}

/** @param {Figure} figure @param {string} bands @param {number} x @param {number} bottom @param {number} width */
function figureBands(figure, bands, x, bottom, width) {
  const colours = [...bands.matchAll(/linear-gradient\((rgba?\([^)]*\))/g)].map((match) => match[1]);
  colours.forEach((fill, i) => figure.add({ kind: "box", x, y: bottom - 2 - 3 * i, width, height: 2, fill }));
}

/**
 * @param {"png" | "svg"} kind
 * @param {Page} page
 * @param {Reader} reader
 * @param {TextPane[]} panes
 * @param {boolean} barless
 */
export function textFigure(kind, page, reader, panes, barless) {
  const { back, text, mark } = figureColours(page.root);
  const boxes = panes.map((pane) => pane.element.getBoundingClientRect());
  const left = Math.min(...boxes.map((box) => box.left));
  const top = Math.min(...boxes.map((box) => box.top));
  const bottom = Math.max(...panes.map((pane, i) => Math.min(boxes[i].bottom, boxes[i].top + pane.total + 24)));
  const figure = new Figure(Math.max(...boxes.map((box) => box.right)) - left + 32, bottom - top + 110, back);
  panes.forEach((pane, i) => figurePane(figure, pane, 16 + boxes[i].left - left, 60 + boxes[i].top - top, text, mark));
  figureFrame(figure, page, reader, barless ? null : reader.ink);
  return figure.picture(kind, reader.chosen ? figureTitle(reader.chosen) : "text");
}

// Pictures of text: the tokens in sight with their colours, a title, the colour bar, and what is exact.

import { inDigits } from "./colour.js";
import { placeName } from "./axistexts.js";
import { modelNote, plainName } from "./choices.js";
import { Figure } from "./figure.js";
import { FIXED_COLOURS } from "./ink.js";
import { textLines, textWidth } from "./marks.js";
import { pictureName } from "./picturename.js";
import { READER_EACH } from "./reader.js";
import { placeTitle } from "./words.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./reader.js").Reader} Reader
 * @typedef {import("./textpane.js").TextPane} TextPane
 * @typedef {{width: number, draw: (figure: Figure, x: number, y: number) => void}} FootPart something of a row; y: its base line
 */

export const FIGURE_EDGE = 16; // pixels around a picture

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
 * What a picture is of.
 * @param {import("./app.js").Chosen} chosen
 */
export function figureTitle(chosen) {
  return `${plainName(chosen.record.title)}: ${placeTitle(chosen)}`;
}

/**
 * The title and what is shown, above all else.
 * @param {Figure} figure
 * @param {Page} page
 * @param {Reader} reader
 * @param {string} [besides] what else is to be said
 * @returns {number} where what stands below them begins
 */
export function figureHead(figure, page, reader, besides = "") {
  const { text, faint } = figureColours(page.root);
  const chosen = /** @type {import("./app.js").Chosen} */ (reader.chosen);
  const room = figure.width - 2 * FIGURE_EDGE;
  let y = 26;
  for (const line of textLines(figureTitle(chosen), room, 15, true)) {
    figure.add({ kind: "text", x: FIGURE_EDGE, y, text: line, fill: text, size: 15, bold: true });
    y += 20;
  }
  for (const line of textLines(`${reader.headline()} ${besides.trim()}`.trim(), room, 12)) {
    figure.add({ kind: "text", x: FIGURE_EDGE, y, text: line, fill: faint, size: 12 });
    y += 17;
  }
  return y - 4;
}

/**
 * What explains a picture, below all else, in as many rows as that takes; the picture ends there.
 * @param {Figure} figure
 * @param {Page} page
 * @param {Reader} reader
 * @param {import("./ink.js").Ink | null | undefined} ink of the bar; none where nothing is coloured
 * @param {number} bottom of what stands above
 * @param {FootPart[]} [first] what else is explained
 * @param {string} [of] whose colours the bar has, where there are others
 */
export function figureFoot(figure, page, reader, ink, bottom, first = [], of = "") {
  const { text, faint } = figureColours(page.root);
  const chosen = /** @type {import("./app.js").Chosen} */ (reader.chosen);
  const exact = reader.shown?.known ? `Exact weights of the ${reader.shown.known} strongest keys of each query.` : "Exact weights.";
  const said = textLines(`${exact} ${modelNote(chosen.record)} Attention is not explanation.`, figure.width - 2 * FIGURE_EDGE, 11);
  const shown = [...first, ...(reader.isEach ? figureKey(reader, text) : ink ? [figureBar(reader, ink, text, of)] : [])];
  let [x, y] = [FIGURE_EDGE, bottom + 26];
  for (const part of shown) {
    if (x > FIGURE_EDGE && x + part.width > figure.width - FIGURE_EDGE) [x, y] = [FIGURE_EDGE, y + 20];
    part.draw(figure, x, y);
    x += part.width + 24;
  }
  if (shown.length) y += 20;
  for (const line of said) {
    figure.add({ kind: "text", x: FIGURE_EDGE, y, text: line, fill: faint, size: 11 });
    y += 16;
  }
  figure.height = y;
}

/**
 * The bar of colours.
 * @param {Reader} reader
 * @param {import("./ink.js").Ink} ink
 * @param {string} fill of its words
 * @param {string} [of] whose colours they are, where there are others
 * @returns {FootPart}
 */
export function figureBar(reader, ink, fill, of = "") {
  const [low, high] = [`${of} ${inDigits(reader.scale.low)}`.trim(), inDigits(reader.scale.high)];
  const words = `${high}  weight, ${reader.scale.kind === "sqrt" ? "square root" : reader.scale.kind} scale`;
  const from = textWidth(low, 11) + 6;
  const draw = (/** @type {Figure} */ figure, /** @type {number} */ x, /** @type {number} */ y) => {
    figure.add({ kind: "text", x, y, text: low, fill, size: 11 });
    for (let i = 0; i < 64; i++) figure.add({ kind: "box", x: x + from + i * 2, y: y - 9, width: 2, height: 10, fill: ink.back[i * 4 + 3] });
    figure.add({ kind: "text", x: x + from + 134, y, text: words, fill, size: 11 });
  };
  return { width: from + 134 + textWidth(words, 11), draw };
}

/** Which underline is whose. @param {Reader} reader @param {string} fill @returns {FootPart[]} */
function figureKey(reader, fill) {
  const shown = /** @type {import("./attending.js").Shown} */ (reader.shown);
  const axis = reader.axisOf(shown.direction);
  return shown.places.slice(0, READER_EACH).map((place, i) => {
    const text = axis ? placeName(axis, place) : String(place);
    const draw = (/** @type {Figure} */ figure, /** @type {number} */ x, /** @type {number} */ y) => {
      figure.add({ kind: "box", x, y: y - 9, width: 10, height: 10, fill: `rgb(${FIXED_COLOURS[i].join(",")})` });
      figure.add({ kind: "text", x: x + 15, y, text, fill, size: 11 });
    };
    return { width: 15 + textWidth(text, 11), draw };
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
  /** @type {DOMRect[]} */
  const rings = [];
  for (const line of pane.rendered.values()) {
    for (const child of line.children) {
      const span = /** @type {HTMLElement} */ (child);
      const box = span.getBoundingClientRect();
      if (box.bottom > frame.bottom + 2 || box.top < frame.top - 2 || !box.width) continue;
      const [left, top] = [x + box.left - frame.left, y + box.top - frame.top];
      const { backgroundColor: back, color } = span.style;
      if (/pl-fixed|pl-pointed/.test(span.className)) rings.push(new DOMRect(left, top, box.width, box.height));
      if (back) figure.add({ kind: "box", x: left, y: top, width: box.width, height: box.height, fill: back });
      figureBands(figure, span.style.backgroundImage, left, top + box.height, box.width);
      const chip = span.classList.contains("pl-place") ? 5 : 0;
      figure.add({ kind: "text", x: left + chip, y: top + box.height * 0.74, text: span.textContent ?? "", fill: color || ink, size: 16, width: box.width - 2 * chip });
    }
  }
  for (const { x: left, y: top, width, height } of rings) figure.add({ kind: "box", x: left, y: top, width, height, fill: "none", stroke: mark }); // over the next token's colour
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
  const bottom = Math.max(...panes.map((pane, i) => boxes[i].top + paneHeight(pane)));
  const right = Math.max(...panes.map((pane, i) => boxes[i].right + 12 - parseFloat(getComputedStyle(pane.element).paddingRight)));
  const figure = new Figure(right - left + 2 * FIGURE_EDGE, 0, back);
  const head = figureHead(figure, page, reader) + (panes.length > 1 ? 18 : 0);
  panes.forEach((pane, i) => {
    const [x, y] = [FIGURE_EDGE + boxes[i].left - left, head + boxes[i].top - top];
    if (panes.length > 1) figure.add({ kind: "text", x: x + 12, y: y - 2, text: pane.label, fill: text, size: 12, bold: true });
    figurePane(figure, pane, x, y, text, mark);
  });
  figureFoot(figure, page, reader, barless ? null : reader.ink, head + bottom - top);
  return figure.picture(kind, pictureName(reader.chosen?.record, reader.chosen ? [reader.chosen] : [], "text", kind));
}

/**
 * How much of a pane's height its tokens take.
 * @param {TextPane} pane
 * @returns {number}
 */
export function paneHeight(pane) {
  return Math.min(pane.element.getBoundingClientRect().height, Math.max(0, pane.total - pane.offset) + 16);
}

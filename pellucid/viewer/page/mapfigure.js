// A picture to keep of maps on screen: title, axes, colour bars and what its pixels are, as PNG or SVG.

import { h } from "./dom.js";
import { barMarks } from "./bar.js";
import { MARK_SIZE, marksAsSvg, paintMarks, textLines, textWidth } from "./marks.js";

/**
 * @typedef {import("./marks.js").Mark} Mark
 * @typedef {{title: string, width: number, height: number, marks: Mark[], bar: {table: Uint8Array, ticks: import("./bar.js").BarTick[], title: string}}} Panel
 * @typedef {{title: string, panels: Panel[], notes: string[], palette: import("./axes.js").Palette, name: string}} Figure
 *   name: of the file
 */

const figureMargin = 14;
const figureScale = 2; // pixels of a PNG to a pixel of the screen
const figureLines = { title: 20, panel: 17, note: 17 }; // pixels from a line to the next

/**
 * @param {Figure} figure
 * @returns {{marks: Mark[], width: number, height: number}}
 */
export function figureMarks({ title, panels, notes, palette }) {
  const inner = panels.reduce((sum, panel) => sum + panel.width, 0) + figureMargin * (panels.length - 1);
  const width = inner + figureMargin * 2;
  const titles = textLines(title, inner, 15, true);
  const headings = panels.map((panel) => (panels.length > 1 ? textLines(panel.title, panel.width, MARK_SIZE, true) : []));
  const headed = figureMargin + titles.length * figureLines.title + 4;
  const top = headed + Math.max(...headings.map((lines) => lines.length)) * figureLines.panel;
  const bottom = top + Math.max(...panels.map((panel) => panel.height));
  const noted = notes.flatMap((note) => textLines(note, inner));
  const height = bottom + 46 + noted.length * figureLines.note + figureMargin;
  /** @type {Mark[]} */
  const marks = [{ x: 0, y: 0, width, height, fill: palette.back }];
  const write = (/** @type {string[]} */ lines, /** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ each, /** @type {{size?: number, bold?: boolean, colour: string}} */ look) =>
    marks.push(...lines.map((text, number) => ({ text, x, y: y + number * each, ...look })));
  write(titles, figureMargin, figureMargin + 8, figureLines.title, { size: 15, bold: true, colour: palette.text });
  let x = figureMargin;
  panels.forEach((panel, number) => {
    write(headings[number], x, headed + 7, figureLines.panel, { bold: true, colour: palette.text });
    marks.push(...panel.marks.map((mark) => figureShifted(mark, x, top)));
    const said = textWidth(panel.bar.title);
    const bar = { x, y: bottom + 10, width: Math.min(220, panel.width - said - 18) };
    marks.push(...barMarks(panel.bar.table, panel.bar.ticks, bar, palette));
    marks.push({ text: panel.bar.title, x: x + bar.width + 8, y: bottom + 16, colour: palette.faint });
    x += panel.width + figureMargin;
  });
  write(noted, figureMargin, bottom + 50, figureLines.note, { colour: palette.faint });
  return { marks, width, height };
}

/**
 * @param {Mark} mark
 * @param {number} x
 * @param {number} y
 * @returns {Mark}
 */
function figureShifted(mark, x, y) {
  if ("points" in mark) return { ...mark, points: mark.points.map((value, at) => value + (at % 2 ? y : x)) };
  return { ...mark, x: mark.x + x, y: mark.y + y };
}

/**
 * @param {Figure} figure
 * @param {"png" | "svg"} kind
 * @returns {Promise<import("./app.js").Picture>}
 */
export async function pictureOf(figure, kind) {
  const { marks, width, height } = figureMarks(figure);
  const { name } = figure;
  if (kind === "svg") return { blob: new Blob([marksAsSvg(marks, width, height)], { type: "image/svg+xml" }), name };
  const canvas = h("canvas", { width: Math.round(width * figureScale), height: Math.round(height * figureScale) });
  const context = canvas.getContext("2d");
  if (!context) throw new Error("this browser draws no pictures");
  context.scale(figureScale, figureScale);
  paintMarks(context, marks);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!(blob instanceof Blob)) throw new Error("the picture is too large for this browser");
  return { blob, name };
}

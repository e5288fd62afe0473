// A picture to keep of maps on screen: title, axes, colour bars and what its pixels are, as PNG or SVG.

import { h } from "./dom.js";
import { barMarks } from "./bar.js";
import { marksAsSvg, paintMarks, textWithin } from "./marks.js";

/**
 * @typedef {import("./marks.js").Mark} Mark
 * @typedef {{title: string, width: number, height: number, marks: Mark[], bar: {table: Uint8Array, ticks: import("./bar.js").BarTick[], title: string}}} Panel
 * @typedef {{title: string, panels: Panel[], notes: string[], palette: import("./axes.js").Palette, name: string}} Figure
 */

const figureMargin = 14;
const figureScale = 2; // pixels of a PNG to a pixel of the screen

/**
 * @param {Figure} figure
 * @returns {{marks: Mark[], width: number, height: number}}
 */
export function figureMarks({ title, panels, notes, palette }) {
  const inner = panels.reduce((sum, panel) => sum + panel.width, 0) + figureMargin * (panels.length - 1);
  const width = inner + figureMargin * 2;
  const top = figureMargin + 24 + (panels.length > 1 ? 20 : 0);
  const bottom = top + Math.max(...panels.map((panel) => panel.height));
  const height = bottom + 46 + notes.length * 17 + figureMargin;
  /** @type {Mark[]} */
  const marks = [{ x: 0, y: 0, width, height, fill: palette.back }];
  marks.push({ text: textWithin(title, inner, 15), x: figureMargin, y: figureMargin + 8, size: 15, bold: true, colour: palette.text });
  let x = figureMargin;
  for (const panel of panels) {
    if (panels.length > 1) marks.push({ text: textWithin(panel.title, panel.width), x, y: top - 10, bold: true, colour: palette.text });
    marks.push(...panel.marks.map((mark) => figureShifted(mark, x, top)));
    const bar = { x, y: bottom + 10, width: Math.min(220, panel.width - 10) };
    marks.push(...barMarks(panel.bar.table, panel.bar.ticks, bar, palette));
    marks.push({ text: textWithin(panel.bar.title, panel.width - bar.width - 10), x: x + bar.width + 8, y: bottom + 16, colour: palette.faint });
    x += panel.width + figureMargin;
  }
  notes.forEach((note, number) => {
    marks.push({ text: textWithin(note, inner), x: figureMargin, y: bottom + 50 + number * 17, colour: palette.faint });
  });
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
  const name = `${figure.name.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 120) || "map"}.${kind}`;
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

// A drawing of rectangles, lines, texts and pictures that becomes a PNG or an SVG, in which text stays text.

import { svg } from "./dom.js";

export const FIGURE_FONT = 'system-ui, "Noto Sans", "Noto Sans CJK JP", sans-serif';

/**
 * @typedef {{kind: "box", x: number, y: number, width: number, height: number, fill: string, stroke?: string}} FigureBox
 * @typedef {{kind: "text", x: number, y: number, text: string, fill: string, size: number, width?: number,
 *   bold?: boolean, end?: boolean}} FigureText y: of the base line; width: what it is set to, where that is known
 * @typedef {{kind: "line", points: [number, number][], stroke: string, width: number, opacity: number,
 *   curved?: boolean}} FigureLine curved: from the first point to the last, level at both
 * @typedef {{kind: "image", x: number, y: number, width: number, height: number, canvas: HTMLCanvasElement}} FigureImage
 */

export class Figure {
  /** @param {number} width @param {number} height @param {string} back */
  constructor(width, height, back) {
    this.width = width;
    this.height = height;
    this.back = back;
    /** @type {(FigureBox | FigureText | FigureLine | FigureImage)[]} */
    this.parts = [];
  }

  /** @param {FigureBox | FigureText | FigureLine | FigureImage} part */
  add(part) {
    this.parts.push(part);
  }

  /**
   * @param {"png" | "svg"} kind
   * @param {string} name of its file
   * @returns {Promise<{blob: Blob, name: string}>}
   */
  async picture(kind, name) {
    return { blob: kind === "svg" ? this.asSvg() : await this.asPng(), name };
  }

  asSvg() {
    const size = { width: this.width, height: this.height, viewBox: `0 0 ${this.width} ${this.height}` };
    const root = svg("svg", { ...size, "font-family": FIGURE_FONT }, svg("rect", { ...size, fill: this.back }), this.parts.map(figureElement));
    return new Blob(['<?xml version="1.0" encoding="UTF-8"?>\n', new XMLSerializer().serializeToString(root)], { type: "image/svg+xml" });
  }

  /** @returns {Promise<Blob>} */
  asPng() {
    const canvas = document.createElement("canvas");
    const times = Math.min(2, 16000 / Math.max(this.width, this.height));
    [canvas.width, canvas.height] = [Math.ceil(this.width * times), Math.ceil(this.height * times)];
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.scale(times, times);
    context.fillStyle = this.back;
    context.fillRect(0, 0, this.width, this.height);
    for (const part of this.parts) figureDraw(context, part);
    return new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the picture is too large"))), "image/png"));
  }
}

/** @param {FigureBox | FigureText | FigureLine | FigureImage} part */
function figureElement(part) {
  if (part.kind === "box") {
    const { x, y, width, height, fill } = part;
    return svg("rect", { x, y, width, height, fill, ...(part.stroke ? { stroke: part.stroke } : {}) });
  }
  if (part.kind === "image") {
    const { x, y, width, height, canvas } = part;
    return svg("image", { x, y, width, height, href: canvas.toDataURL("image/png"), preserveAspectRatio: "none" });
  }
  if (part.kind === "line") {
    return svg("path", { d: figurePath(part), fill: "none", stroke: part.stroke, "stroke-width": part.width, "stroke-opacity": part.opacity });
  }
  const element = svg("text", {
    x: part.x,
    y: part.y,
    fill: part.fill,
    "font-size": part.size,
    "xml:space": "preserve",
    ...(part.bold ? { "font-weight": 600 } : {}),
    ...(part.end ? { "text-anchor": "end" } : {}),
    ...(part.width && part.text.trim() ? { textLength: part.width.toFixed(1), lengthAdjust: "spacingAndGlyphs" } : {}),
  });
  element.textContent = figureValid(part.text);
  return element;
}

/** What XML can hold. @param {string} text */
function figureValid(text) {
  return text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd").replace(/\p{Cs}/gu, "\ufffd");
}

/** @param {FigureLine} line */
function figurePath(line) {
  const [[x, y], [u, v]] = [line.points[0], line.points[line.points.length - 1]];
  if (!line.curved) return line.points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
  const middle = (x + u) / 2;
  return `M${x.toFixed(1)} ${y.toFixed(1)}C${middle.toFixed(1)} ${y.toFixed(1)} ${middle.toFixed(1)} ${v.toFixed(1)} ${u.toFixed(1)} ${v.toFixed(1)}`;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {FigureBox | FigureText | FigureLine | FigureImage} part
 */
export function figureDraw(context, part) {
  if (part.kind === "box") {
    context.fillStyle = part.fill;
    if (part.fill !== "none") context.fillRect(part.x, part.y, part.width, part.height);
    if (part.stroke) {
      context.strokeStyle = part.stroke;
      context.lineWidth = 1;
      context.strokeRect(part.x, part.y, part.width, part.height);
    }
  } else if (part.kind === "image") {
    context.imageSmoothingEnabled = false;
    context.drawImage(part.canvas, part.x, part.y, part.width, part.height);
  } else if (part.kind === "line") {
    context.globalAlpha = part.opacity;
    context.strokeStyle = part.stroke;
    context.lineWidth = part.width;
    context.stroke(new Path2D(figurePath(part)));
    context.globalAlpha = 1;
  } else {
    context.fillStyle = part.fill;
    context.font = `${part.bold ? "600 " : ""}${part.size}px ${FIGURE_FONT}`;
    context.textAlign = part.end ? "right" : "left";
    context.fillText(part.text, part.x, part.y);
  }
}

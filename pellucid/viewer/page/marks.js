// Lines, rectangles and text as plain values, drawn the same on a canvas and into an SVG.

import { svg } from "./dom.js";

/**
 * @typedef {{text: string, x: number, y: number, anchor?: "start" | "middle" | "end", angle?: number, size?: number,
 *   colour: string, bold?: boolean}} TextMark y: the middle of the line
 * @typedef {{x: number, y: number, width: number, height: number, fill?: string, stroke?: string, opacity?: number}} RectMark
 * @typedef {{points: number[], colour?: string, fill?: string, width?: number, opacity?: number}} LineMark x, y, x, y, …
 * @typedef {{picture: HTMLCanvasElement, x: number, y: number, width: number, height: number}} PictureMark
 * @typedef {TextMark | RectMark | LineMark | PictureMark} Mark
 */

export const MARK_SIZE = 12;
const marksFont = 'system-ui, "Noto Sans", "Noto Sans CJK JP", sans-serif';

/** @type {CanvasRenderingContext2D | null} */
let marksMeasuring = null;
/** @type {Map<string, number>} */
const marksWidths = new Map();

/**
 * @param {string} text
 * @param {number} [size]
 * @param {boolean} [bold]
 * @returns {number} pixels
 */
export function textWidth(text, size = MARK_SIZE, bold = false) {
  marksMeasuring ??= document.createElement("canvas").getContext("2d");
  if (!marksMeasuring) return text.length * size * 0.6;
  const name = `${bold ? "b" : ""}${size} ${text}`;
  let width = marksWidths.get(name);
  if (width === undefined) {
    marksMeasuring.font = `${bold ? "600 " : ""}${size}px ${marksFont}`;
    width = marksMeasuring.measureText(text).width;
    if (marksWidths.size > 20000) marksWidths.clear();
    marksWidths.set(name, width);
  }
  return width;
}

/**
 * A text cut to a width.
 * @param {string} text
 * @param {number} width
 * @param {number} [size]
 * @returns {string}
 */
export function textWithin(text, width, size = MARK_SIZE) {
  if (textWidth(text, size) <= width) return text;
  const characters = Array.from(text);
  let [fits, over] = [0, characters.length];
  while (over - fits > 1) {
    const middle = (fits + over) >> 1;
    if (textWidth(`${characters.slice(0, middle).join("")}…`, size) <= width) fits = middle;
    else over = middle;
  }
  return fits ? `${characters.slice(0, fits).join("")}…` : "";
}

/**
 * A text in as many lines as it takes, nothing of it left out: a number stays with the word before it, and what is wider
 * than a line goes on in the next.
 * @param {string} text
 * @param {number} width
 * @param {number} [size]
 * @param {boolean} [bold]
 * @returns {string[]}
 */
export function textLines(text, width, size = MARK_SIZE, bold = false) {
  const fits = (/** @type {string} */ line) => textWidth(line, size, bold) <= width;
  /** @type {string[]} */
  const lines = [];
  let line = "";
  for (const word of text.split(/ (?!\d)/)) {
    if (line && fits(`${line} ${word}`)) line += ` ${word}`;
    else {
      if (line) lines.push(line);
      line = word;
    }
    while (!fits(line) && line.length > 1) {
      const characters = Array.from(line);
      let taken = characters.length - 1;
      while (taken > 1 && !fits(characters.slice(0, taken).join(""))) taken--;
      lines.push(characters.slice(0, taken).join(""));
      line = characters.slice(taken).join("");
    }
  }
  return line ? [...lines, line] : lines;
}

/**
 * The room that a text takes.
 * @param {TextMark} mark
 * @returns {{x: number, y: number, width: number, height: number}}
 */
export function textBox({ text, x, y, anchor = "start", angle = 0, size = MARK_SIZE, bold }) {
  const long = textWidth(text, size, bold);
  const before = anchor === "start" ? 0 : anchor === "end" ? long : long / 2;
  if (!angle) return { x: x - before, y: y - size / 2, width: long, height: size };
  return { x: x - size / 2, y: y - long + before, width: size, height: long };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Mark[]} marks
 */
export function paintMarks(context, marks) {
  context.textBaseline = "middle";
  context.direction = "ltr";
  for (const mark of marks) {
    context.globalAlpha = "opacity" in mark ? (mark.opacity ?? 1) : 1;
    if ("picture" in mark) marksPicture(context, mark);
    else if ("text" in mark) marksText(context, mark);
    else if ("points" in mark) marksLine(context, mark);
    else marksRect(context, mark);
  }
  context.globalAlpha = 1;
}

/** @param {CanvasRenderingContext2D} context @param {PictureMark} mark */
function marksPicture(context, mark) {
  context.imageSmoothingEnabled = false;
  context.drawImage(mark.picture, mark.x, mark.y, mark.width, mark.height);
}

/** @param {CanvasRenderingContext2D} context @param {TextMark} mark */
function marksText(context, mark) {
  context.font = `${mark.bold ? "600 " : ""}${mark.size ?? MARK_SIZE}px ${marksFont}`;
  context.fillStyle = mark.colour;
  const anchor = mark.anchor ?? "start";
  context.textAlign = anchor === "middle" ? "center" : anchor === "end" ? "right" : "left";
  if (!mark.angle) {
    context.fillText(mark.text, mark.x, mark.y);
    return;
  }
  context.save();
  context.translate(mark.x, mark.y);
  context.rotate((mark.angle * Math.PI) / 180);
  context.fillText(mark.text, 0, 0);
  context.restore();
}

/** @param {CanvasRenderingContext2D} context @param {LineMark} mark */
function marksLine(context, mark) {
  context.beginPath();
  for (let i = 0; i < mark.points.length; i += 2) context.lineTo(mark.points[i], mark.points[i + 1]);
  if (mark.fill) {
    context.fillStyle = mark.fill;
    context.fill();
  }
  if (!mark.colour) return;
  context.strokeStyle = mark.colour;
  context.lineWidth = mark.width ?? 1;
  context.stroke();
}

/** @param {CanvasRenderingContext2D} context @param {RectMark} mark */
function marksRect(context, mark) {
  if (mark.fill) {
    context.fillStyle = mark.fill;
    context.fillRect(mark.x, mark.y, mark.width, mark.height);
  }
  if (!mark.stroke) return;
  context.strokeStyle = mark.stroke;
  context.lineWidth = 1;
  context.strokeRect(mark.x + 0.5, mark.y + 0.5, mark.width - 1, mark.height - 1);
}

/**
 * The same as an SVG: text stays text, pictures are embedded.
 * @param {Mark[]} marks
 * @param {number} width
 * @param {number} height
 * @returns {string}
 */
export function marksAsSvg(marks, width, height) {
  const root = svg("svg", { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`, "font-family": marksFont });
  for (const mark of marks) {
    if ("picture" in mark) root.append(marksSvgPicture(mark));
    else if ("text" in mark) root.append(marksSvgText(mark));
    else if ("points" in mark) root.append(marksSvgLine(mark));
    else root.append(marksSvgRect(mark));
  }
  return new XMLSerializer().serializeToString(root);
}

/** @param {PictureMark} mark */
function marksSvgPicture({ picture, x, y, width, height }) {
  return svg("image", { href: picture.toDataURL("image/png"), x, y, width, height, preserveAspectRatio: "none", "image-rendering": "pixelated" });
}

/** @param {TextMark} mark */
function marksSvgText(mark) {
  /** @type {Record<string, string | number>} */
  const attributes = {
    x: mark.x, y: mark.y, fill: mark.colour, "font-size": mark.size ?? MARK_SIZE, "text-anchor": mark.anchor ?? "start", "dominant-baseline": "central",
  };
  if (mark.bold) attributes["font-weight"] = 600;
  if (mark.angle) attributes.transform = `rotate(${mark.angle} ${mark.x} ${mark.y})`;
  return svg("text", attributes, mark.text);
}

/** @param {LineMark} mark */
function marksSvgLine(mark) {
  const points = mark.points.map((value) => Number(value.toFixed(2))).join(" ");
  const stroke = { stroke: mark.colour ?? "none", "stroke-width": mark.width ?? 1 };
  return svg(mark.fill ? "polygon" : "polyline", { points, fill: mark.fill ?? "none", opacity: mark.opacity ?? 1, ...stroke });
}

/** @param {RectMark} mark */
function marksSvgRect({ x, y, width, height, fill, stroke, opacity }) {
  return svg("rect", { x, y, width, height, fill: fill ?? "none", stroke: stroke ?? "none", opacity: opacity ?? 1 });
}

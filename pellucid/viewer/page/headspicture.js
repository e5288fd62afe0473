// The wall and the scatter as one picture: text stays text in an SVG, a PNG is drawn of it.

import { Building } from "./client.js";
import { COLOUR_MAPS, colourTable } from "./colour.js";
import { svg } from "./dom.js";
import { modelNote, plainName } from "./choices.js";
import { countsOf, isWanted, kindOf, numberOf, numberTitle, shownNumber, sortedHeads } from "./headmodel.js";
import { kindLook, KINDS } from "./kinds.js";
import { textLines, textWidth } from "./marks.js";
import { pictureName } from "./picturename.js";
import { plotOf, scatterNote } from "./scatter.js";
import { plotPoints } from "./scatterplot.js";
import { drawThumb } from "./thumbs.js";

/**
 * @typedef {import("./headmodel.js").Head} Head
 * @typedef {import("./headmodel.js").HeadsChoice} HeadsChoice
 * @typedef {import("./client.js").Numbers} Numbers
 * @typedef {import("./client.js").Values} Values
 * @typedef {{page: import("./app.js").Page, heads: Head[], numbers: Numbers | null, choice: () => HeadsChoice, wall: import("./wall.js").Wall,
 *   plotLook: () => import("./scatterplot.js").PlotLook, asked: () => import("./thumbs.js").ThumbsAsked, record: () => import("./client.js").RecordInfo | undefined}} HeadsPictured
 */

const pictureCell = 48;
const pictureGap = 6;
const pictureFoot = 14;
const pictureLabel = 190;

/**
 * @param {HeadsPictured} view
 * @param {"png" | "svg"} kind
 * @returns {Promise<import("./app.js").Picture>}
 */
export async function headsPicture(view, kind) {
  const drawing = await wallDrawing(view);
  const name = pictureName(view.record(), [], "heads", kind);
  const text = new XMLSerializer().serializeToString(drawing.element);
  const blob = new Blob([text], { type: "image/svg+xml" });
  return { name, blob: kind === "svg" ? blob : await pngOf(blob, drawing.width, drawing.height) };
}

/**
 * @param {Blob} blob an SVG
 * @param {number} width
 * @param {number} height
 * @returns {Promise<Blob>} twice as many pixels as it has units
 */
async function pngOf(blob, width, height) {
  const address = URL.createObjectURL(blob);
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas");
    const times = Math.min(2, 16000 / Math.max(width, height));
    [canvas.width, canvas.height] = [width * times, height * times];
    canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve, reject) => canvas.toBlob((made) => (made ? resolve(made) : reject(new Error("the browser cannot draw a picture of this size"))), "image/png"));
  } finally {
    URL.revokeObjectURL(address);
  }
}

/**
 * @param {HeadsPictured} view
 * @returns {Promise<{element: SVGElement, width: number, height: number}>}
 */
async function wallDrawing(view) {
  const choice = view.choice();
  const shown = sortedHeads(view.heads, choice, view.numbers).filter((head) => isWanted(head, choice, view.numbers));
  const maps = await mapsOf(view, shown);
  const lines = choice.sort ? inLines(shown, 16) : [...new Set(shown.map((head) => head.layer))].flatMap((layer) => inLines(shown.filter((head) => head.layer === layer), 32));
  const left = choice.sort ? 12 : pictureLabel;
  const step = pictureCell + pictureFoot + pictureGap;
  const columns = Math.max(1, ...lines.map((line) => line.length));
  const width = Math.max(left + columns * (pictureCell + pictureGap) + 12, 620);
  const plot = view.numbers && shown.length ? pictureScatter(view, choice, view.numbers, Math.min(width, 620)) : null;
  const titles = pictureTitles(view, choice, width);
  const wallTop = titles.bottom;
  const notesTop = wallTop + lines.length * step + 8;
  const kinds = pictureKinds(shown, view.numbers, choice, width);
  const notes = pictureNotes(view, [...maps.values()], width);
  const plotTop = notesTop + kinds.height + 36 + notes.length * 15;
  const height = plotTop + (plot?.height ?? 0);
  const look = view.plotLook();
  const cells = lines.flatMap((line, row) => /** @type {(SVGElement | null)[]} */ ([
    choice.sort ? null : lineLabel(line[0], lines[row - 1]?.[0], wallTop + row * step, look),
    ...line.map((head, column) => headDrawing(view, head, maps.get(head.layer.number) ?? null, { x: left + column * (pictureCell + pictureGap), y: wallTop + row * step }, look)),
  ]));
  const element = svg(
    "svg",
    { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`, "font-family": "system-ui, sans-serif", "font-size": 11, fill: look.text },
    svg("rect", { width, height, fill: look.back }),
    [...titles.draw(look), ...cells, ...kinds.draw(notesTop, look), ...pictureColours(view, notesTop + kinds.height, notes, look)],
    plot ? svg("g", { transform: `translate(0 ${plotTop})` }, plot.element) : null,
  );
  return { element, width, height };
}

/**
 * @param {Head[]} heads
 * @param {number} most
 * @returns {Head[][]}
 */
function inLines(heads, most) {
  return Array.from({ length: Math.ceil(heads.length / most) }, (_, line) => heads.slice(line * most, (line + 1) * most));
}

/**
 * The small maps of every layer that is drawn; a layer that has none is left out.
 * @param {HeadsPictured} view
 * @param {Head[]} heads
 * @returns {Promise<Map<number, Values>>}
 */
async function mapsOf(view, heads) {
  const maps = new Map();
  for (const layer of new Set(heads.map((head) => head.layer))) {
    if (!layer.map) continue;
    const got = view.wall.thumbs.of(layer) ?? (await view.page.client.thumbs({ ...view.asked(), layer: layer.number }));
    if (got instanceof Building) throw new Error(`the maps of layer ${layer.number} are still being computed`);
    maps.set(layer.number, got);
  }
  return maps;
}

/**
 * @param {Head} head
 * @param {Head | undefined} before
 * @param {number} y
 * @param {import("./scatterplot.js").PlotLook} look
 */
function lineLabel(head, before, y, look) {
  if (before?.layer === head.layer) return null;
  const { number, name, role, q_len, k_len } = head.layer;
  return svg("g", {}, svg("text", { x: 12, y: y + 16 }, `${number} ${plainName(name, 28)}`), svg("text", { x: 12, y: y + 31, fill: look.faint }, `${role} · ${q_len} × ${k_len}`));
}

/**
 * @param {HeadsPictured} view
 * @param {Head} head
 * @param {Values | null} maps
 * @param {{x: number, y: number}} at
 * @param {import("./scatterplot.js").PlotLook} look
 */
function headDrawing(view, head, maps, { x, y }, look) {
  const choice = view.choice();
  const { letter, colour, text } = kindLook(kindOf(view.numbers, head, choice.sink).kind);
  const name = choice.sort ? `${head.layer.number}·${head.number} ${shownNumber(numberOf(view.numbers, head, choice.sort, choice.sink))}` : String(head.number);
  const foot = y + pictureCell + 11;
  return svg(
    "g",
    {},
    maps && view.wall.look ? svg("image", { x, y, width: pictureCell, height: pictureCell, preserveAspectRatio: "none", "image-rendering": "pixelated", href: thumbAddress(maps, head.place, view.wall.look) }) : svg("text", { x: x + 4, y: y + 26, fill: look.faint, "font-size": 9 }, "no map"),
    svg("rect", { x, y, width: pictureCell, height: pictureCell, fill: "none", stroke: look.line }),
    svg("text", { x, y: foot, "font-size": choice.sort ? 9 : 10 }, name),
    view.numbers ? svg("rect", { x: x + pictureCell - 11, y: foot - 9, width: 11, height: 11, rx: 2, fill: colour, stroke: look.line, "stroke-width": 0.5 }) : null,
    view.numbers ? svg("text", { x: x + pictureCell - 5.5, y: foot, "text-anchor": "middle", "font-size": 9, fill: text }, letter) : null,
  );
}

/**
 * @param {Values} maps
 * @param {number} place
 * @param {import("./thumbs.js").ThumbsLook} look
 * @returns {string}
 */
function thumbAddress(maps, place, look) {
  const canvas = document.createElement("canvas");
  drawThumb(canvas, maps, place, look);
  return canvas.toDataURL("image/png");
}

/**
 * Which record, in which order, and which heads of it.
 * @param {HeadsPictured} view
 * @param {HeadsChoice} choice
 * @param {number} width
 */
function pictureTitles(view, choice, width) {
  const order = choice.sort && view.numbers ? `sorted by ${numberTitle(view.numbers, choice.sort, choice.sink)}, ${choice.ascending ? "least" : "most"} first` : "layer by layer";
  const only = [choice.kinds, choice.roles].flatMap((words) => (words ? `only ${[...words].join(", ")}` : []));
  const said = [order, `kinds ${choice.sink === "with" ? "of all the weight" : "beyond the sink"}`, ...only].join("; ");
  const title = textLines(`${plainName(view.record()?.title ?? "record")}, heads`, width - 24, 14, true);
  const lines = textLines(said, width - 24, 11);
  const below = 20 + title.length * 18;
  return {
    bottom: below + lines.length * 15 - 4,
    draw: (/** @type {import("./scatterplot.js").PlotLook} */ look) => [
      ...title.map((line, number) => svg("text", { x: 12, y: 20 + number * 18, "font-size": 14, "font-weight": "bold" }, line)),
      ...lines.map((line, number) => svg("text", { x: 12, y: below - 2 + number * 15, fill: look.faint }, line)),
    ],
  };
}

/**
 * The kinds of the heads that are drawn, in as many lines as they take.
 * @param {Head[]} heads
 * @param {Numbers | null} numbers
 * @param {HeadsChoice} choice
 * @param {number} width
 */
function pictureKinds(heads, numbers, choice, width) {
  const counts = countsOf(numbers ? heads : [], (head) => kindOf(numbers, head, choice.sink).kind);
  let [x, line] = [12, 0];
  const placed = KINDS.filter((kind) => counts.has(kind)).map((kind) => {
    const words = `${kind} ${counts.get(kind)}`;
    const long = 17 + textWidth(words, 11);
    if (x + long > width - 12) [x, line] = [12, line + 1];
    const at = { kind, words, x, y: line * 19 };
    x += long + 16;
    return at;
  });
  const draw = (/** @type {number} */ top, /** @type {import("./scatterplot.js").PlotLook} */ look) =>
    placed.flatMap((one) => {
      const { letter, colour, text } = kindLook(one.kind);
      return [
        svg("rect", { x: one.x, y: top + one.y + 5, width: 13, height: 13, rx: 2, fill: colour, stroke: look.line, "stroke-width": 0.5 }),
        svg("text", { x: one.x + 6.5, y: top + one.y + 15.5, "text-anchor": "middle", "font-size": 10, fill: text }, letter),
        svg("text", { x: one.x + 17, y: top + one.y + 16 }, one.words),
      ];
    });
  return { height: placed.length ? (line + 1) * 19 + 5 : heads.length ? 0 : 20, draw: heads.length ? draw : pictureNone };
}

/** @param {number} top @param {import("./scatterplot.js").PlotLook} look */
function pictureNone(top, look) {
  return [svg("text", { x: 12, y: top + 12, fill: look.faint }, "No head is of the kinds and roles that are chosen.")];
}

/**
 * The bar of the maps' colours, and what is said of them.
 * @param {HeadsPictured} view
 * @param {number} top
 * @param {string[]} notes
 * @param {import("./scatterplot.js").PlotLook} look
 */
function pictureColours(view, top, notes, look) {
  const name = view.page.state.get("colours", "viridis");
  const table = colourTable(COLOUR_MAPS.includes(name) ? name : COLOUR_MAPS[0]);
  const steps = Array.from({ length: 32 }, (_, i) => svg("rect", { x: 50 + i * 4, y: top + 6, width: 4.3, height: 9, fill: `rgb(${[0, 1, 2].map((c) => table[Math.floor((i * 255) / 31) * 4 + c]).join(",")})` }));
  return [
    svg("text", { x: 12, y: top + 14, fill: look.faint }, "least"),
    ...steps,
    svg("text", { x: 184, y: top + 14, fill: look.faint }, "largest of each map"),
    ...notes.map((line, number) => svg("text", { x: 12, y: top + 34 + number * 15, fill: look.faint }, line)),
  ];
}

/**
 * What the maps are: exact or pooled, and how coloured, in lines that fit.
 * @param {HeadsPictured} view
 * @param {Values[]} maps
 * @param {number} width
 * @returns {string[]}
 */
function pictureNotes(view, maps, width) {
  const record = view.record();
  const model = record ? modelNote(record) : "";
  if (!maps.length) return textLines(model, width - 24, 11);
  const { pool } = view.asked();
  const [rows, columns] = [1, 2].map((axis) => Math.max(...maps.map((one) => one.shape[axis])));
  const pooled = `pooled exactly into at most ${rows} × ${columns} bins, ${pool === "max" ? "the largest weight" : "the mean weight"} of each bin`;
  const exact = maps.every((one) => one.exact) ? "exact, a pixel a query and a key" : maps.some((one) => one.exact) ? `exact where a map is small, else ${pooled}` : pooled;
  return textLines(`Each map is ${exact}; ${view.wall.look?.kind ?? "log"} scale, of each map its own. ${model}`.trim(), width - 24, 11);
}

/**
 * @param {HeadsPictured} view
 * @param {HeadsChoice} choice
 * @param {Numbers} numbers
 * @param {number} width
 * @returns {{element: SVGElement, height: number}}
 */
function pictureScatter(view, choice, numbers, width) {
  const plot = plotOf(view.heads, choice, numbers);
  const look = view.plotLook();
  const height = Math.round(width * 0.65);
  const lines = textLines(scatterNote(plot, view.heads.length), width - 24, 11);
  const notes = lines.map((line, number) => svg("text", { x: 12, y: height + 14 + number * 15, fill: look.faint }, line));
  return { element: svg("g", {}, plotPoints(plot, { width, height }, look).element, ...notes), height: height + 12 + lines.length * 15 };
}

// A picture to keep of what a scene shows.

import { pictureOf } from "./mapfigure.js";
import { textOfToken } from "./tokens.js";
import { placeTitle } from "./words.js";

/**
 * @param {import("./scene.js").MapScene} scene
 * @param {"png" | "svg"} kind
 * @returns {Promise<import("./app.js").Picture>}
 */
export function pictureOfScene(scene, kind) {
  const [first] = scene.panels;
  const { chosen } = first;
  if (!chosen) return Promise.reject(new Error("there is no map on screen"));
  scene.frame();
  const shown = scene.shownPanels.filter((panel) => panel.pane.isShown && panel.source);
  const panels = shown.map((panel) => {
    const drawing = scene.drawing.of(panel);
    const { layout, raster } = panel.pane;
    const picture = raster.copy(drawing.scene, panel.pane.rasterSize(2));
    const { left: x, top: y, width, height } = layout;
    const marks = [{ picture, x, y, width, height }, ...panel.pane.marks(drawing)];
    return { title: scenefigureTitle(scene, panel), ...scenefigureSize(panel, drawing), marks, bar: scene.drawing.bar(panel) };
  });
  const model = scenefigureModel(chosen.record.model || chosen.record.title);
  const places = scene.panels.map((panel) => scenefigureTitle(scene, panel));
  const title = scene.difference ? `${model}: ${shown.length > 1 ? "two maps compared" : "A − B"}` : `${model}: ${places[0]}`;
  const ways = scene.difference ? [places.join("; ")] : [];
  const notes = [scene.telling.words, ...ways, "Weights computed by Pellucid from what was observed. Attention is not explanation."];
  const name = `${chosen.record.title} ${scene.panels.map((panel) => panel.chosen && placeTitle(panel.chosen)).join(" and ")}`;
  return pictureOf({ title, panels, notes, palette: scene.drawing.palette, name }, kind);
}

/**
 * The room that a panel takes without what lies beyond its map.
 * @param {import("./panel.js").MapPanel} panel
 * @param {import("./pane.js").Drawing} drawing
 */
function scenefigureSize({ pane }, { visible, lengths }) {
  const { left, top, width, height } = pane.layout;
  const part = (/** @type {number} */ from, /** @type {number} */ to, /** @type {number} */ length) => Math.min(1, (length - from) / (to - from));
  return {
    width: Math.ceil(left + Math.max(width * part(visible.k0, visible.k1, lengths.k), 320 - left)) + 4,
    height: Math.ceil(top + height * part(visible.q0, visible.q1, lengths.q)) + 4,
  };
}

/**
 * A model's name without the folders that it lies in, and with nothing in it that hides or turns text.
 * @param {string} model
 * @returns {string}
 */
function scenefigureModel(model) {
  const words = textOfToken(model).split(/\s+/).map((word) => (word.split("/").length > 2 ? word.split("/").slice(-2).join("/") : word));
  return words.join(" ").slice(0, 80);
}

/** @param {import("./scene.js").MapScene} scene @param {import("./panel.js").MapPanel} panel */
function scenefigureTitle(scene, panel) {
  if (panel === scene.difference || !panel.chosen) return panel.label;
  return `${scene.difference ? `${panel.label}: ` : ""}${placeTitle(panel.chosen)}`;
}

// A picture to keep of what a scene shows.

import { modelNote, plainName } from "./choices.js";
import { pictureOf } from "./mapfigure.js";
import { pictureName } from "./picturename.js";
import { placeTitle } from "./words.js";

/**
 * @param {import("./scene.js").MapScene} scene
 * @param {"png" | "svg"} kind
 * @returns {Promise<import("./app.js").Picture>}
 */
export async function pictureOfScene(scene, kind) {
  await scene.arranged();
  const places = scene.panels.flatMap((panel) => panel.chosen ?? []);
  const [chosen] = places;
  if (!chosen) throw new Error("there is no map on screen");
  const shown = scene.shownPanels.filter((panel) => panel.pane.isShown && panel.source);
  const panels = shown.map((panel) => {
    const drawing = scene.drawing.of(panel);
    const { layout, raster } = panel.pane;
    const picture = raster.copy(drawing.scene, panel.pane.rasterSize(2));
    const { left: x, top: y, width, height } = layout;
    const marks = [{ picture, x, y, width, height }, ...panel.pane.marks(drawing)];
    return { title: scenefigureTitle(scene, panel), ...scenefigureSize(panel, drawing), marks, bar: scene.drawing.bar(panel) };
  });
  const records = [...new Set(places.map((place) => place.record))];
  const of = records.map((record) => plainName(record.title)).join(" and ");
  const title = `${of}: ${scene.difference ? (shown.length > 1 ? "two maps compared" : "A − B") : placeTitle(chosen)}`;
  const ways = scene.difference ? [scene.panels.map((panel) => scenefigureTitle(scene, panel)).join("; ")] : [];
  const models = [...new Set(records.map(modelNote).filter(Boolean))];
  const notes = [scene.telling.words, ...ways, ...models, "Weights computed by Pellucid from what was observed. Attention is not explanation."];
  const name = pictureName(chosen.record, places, scene.difference ? "compare" : "map", kind);
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

/** @param {import("./scene.js").MapScene} scene @param {import("./panel.js").MapPanel} panel */
function scenefigureTitle(scene, panel) {
  if (panel === scene.difference || !panel.chosen) return panel.label;
  const apart = new Set(scene.panels.map((one) => one.chosen?.record)).size > 1 ? `${plainName(panel.chosen.record.title)}, ` : "";
  return `${scene.difference ? `${panel.label}: ` : ""}${apart}${placeTitle(panel.chosen)}`;
}

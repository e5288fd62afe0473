// A picture to keep of what a scene shows.

import { pictureOf } from "./mapfigure.js";
import { shownToken } from "./tokens.js";
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
    const { layout, size, raster } = panel.pane;
    const picture = raster.copy(drawing.scene, panel.pane.rasterSize(2));
    const { left: x, top: y, width, height } = layout;
    const marks = [{ picture, x, y, width, height }, ...panel.pane.marks(drawing)];
    return { title: scenefigureTitle(scene, panel), ...size, marks, bar: scene.drawing.bar(panel) };
  });
  const model = shownToken(chosen.record.model || chosen.record.title, 60);
  const title = scene.difference ? `${model}: two maps compared` : `${model}: ${placeTitle(chosen)}`;
  const notes = [scene.words ?? "", "Pellucid: weights computed from the observed queries and keys; attention is not explanation."];
  const name = `${chosen.record.title} ${scene.panels.map((panel) => panel.chosen && placeTitle(panel.chosen)).join(" and ")}`;
  return pictureOf({ title, panels, notes, palette: scene.drawing.palette, name }, kind);
}

/** @param {import("./scene.js").MapScene} scene @param {import("./panel.js").MapPanel} panel */
function scenefigureTitle(scene, panel) {
  if (panel === scene.difference || !panel.chosen) return panel.label;
  return `${scene.difference ? `${panel.label}: ` : ""}${placeTitle(panel.chosen)}`;
}

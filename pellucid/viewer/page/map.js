// The map of one place: from the whole to single pairs of tokens.

import { pictureOfScene } from "./scenefigure.js";
import { MapScene } from "./scene.js";
import { pythonOf } from "./words.js";
import { wholeTokens } from "./viewport.js";

/**
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function mapView(page) {
  const scene = new MapScene(page, false);
  return {
    element: scene.element,
    update(state, changed) {
      const chosen = page.chosen(state);
      if (chosen) scene.update(state, changed, [chosen]);
    },
    destroy: () => scene.destroy(),
    picture: (kind) => pictureOfScene(scene, kind),
    async python() {
      await scene.arranged();
      const { visible, lengths } = scene.camera;
      const chosen = page.chosen(page.state.state);
      return chosen ? pythonOf(chosen, wholeTokens(visible.q0, visible.q1, lengths.q), wholeTokens(visible.k0, visible.k1, lengths.k)) : "";
    },
  };
}

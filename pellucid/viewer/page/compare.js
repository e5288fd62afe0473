// Two maps side by side with locked axes, and their difference.

import { h } from "./dom.js";
import { naturalOther, placePicker } from "./picker.js";
import { pictureOfScene } from "./scenefigure.js";
import { MapScene } from "./scene.js";
import { placeTitle, pythonOf } from "./words.js";
import { wholeTokens } from "./viewport.js";

const compareNames = ["b.record", "b.layer", "b.heads", "b.sequence"];

/**
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function compareView(page) {
  const scene = new MapScene(page, true);
  const picker = placePicker(page, "b.", "B");
  const only = h("input", { type: "checkbox", onchange: () => page.state.set({ difference: only.checked ? "only" : null }) });
  const swap = h("button", { type: "button", title: "exchange A and B", onclick: () => page.state.set(compareExchanged(page)) }, "⇄ exchange");
  const bar = h("div", { class: "pl-map-tools" }, picker.element, swap, h("label", { class: "pl-map-tool" }, only, " the difference alone"));
  scene.element.prepend(bar);
  const headings = (/** @type {import("./app.js").Chosen[]} */ chosen) => {
    scene.panels.forEach((panel, number) => (panel.heading.textContent = `${panel.label}: ${compareTitle(chosen, number)}`));
    if (scene.difference) scene.difference.heading.textContent = "A − B";
  };
  return {
    element: scene.element,
    update(state, changed) {
      const chosen = [page.chosen(state), page.chosen(state, "b.")].filter((one) => one !== null);
      if (chosen.length < 2) return;
      if (!compareNames.some((name) => name in state)) return page.state.set(naturalOther(page, chosen[0]), { replace: true });
      picker.update(chosen[1]);
      only.checked = state.difference === "only";
      scene.body.dataset.difference = only.checked ? "only" : "side";
      scene.update(state, changed, chosen);
      headings(chosen);
    },
    destroy: () => scene.destroy(),
    picture: (kind) => pictureOfScene(scene, kind),
    async python() {
      await scene.arranged();
      const [first] = scene.panels;
      return scene.panels.flatMap((panel) => {
        const record = panel.chosen?.record.id === first.chosen?.record.id ? "record" : "other";
        if (!panel.chosen || !panel.source) return [];
        const visible = scene.drawing.visibleOf(panel);
        const { q, k } = panel.source.lengths;
        return `${panel.label.toLowerCase()} = ${pythonOf(panel.chosen, wholeTokens(visible.q0, visible.q1, q), wholeTokens(visible.k0, visible.k1, k), record)}`;
      }).join("\n");
    },
  };
}

/**
 * A place's title, with its record where there are two.
 * @param {import("./app.js").Chosen[]} chosen
 * @param {number} number
 */
function compareTitle(chosen, number) {
  const apart = chosen[0].record !== chosen[1].record ? `${chosen[number].record.title}, ` : "";
  return apart + placeTitle(chosen[number]);
}

/**
 * The change of the state that makes A what B is, and B what A is.
 * @param {import("./app.js").Page} page
 * @returns {Record<string, string>}
 */
function compareExchanged(page) {
  const [a, b] = ["", "b."].map((prefix) => page.chosen(page.state.state, prefix));
  if (!a || !b) return {};
  const of = (/** @type {import("./app.js").Chosen} */ one, /** @type {string} */ prefix) => ({
    [`${prefix}record`]: one.record.id,
    [`${prefix}layer`]: String(one.layer.number),
    [`${prefix}heads`]: one.place.heads,
    [`${prefix}sequence`]: String(one.sequence),
  });
  return { ...of(b, ""), ...of(a, "b.") };
}

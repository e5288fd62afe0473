// The header: what is looked at, and where else one can look.

import { fill, h } from "./dom.js";
import { VIEWS } from "./app.js";

/**
 * @param {import("./app.js").Page} page
 */
export function pageHeader(page) {
  const tabs = h("nav", { class: "pl-tabs", "aria-label": "views" });
  const element = h("header", { class: "pl-header" }, h("strong", {}, "Pellucid"), tabs);
  let shown = "";
  return {
    element,
    /** @param {string} name @param {import("./app.js").View} view */
    shows(name, view) {
      shown = name;
    },
    /** @param {import("./state.js").State} state @param {Set<string>} changed */
    update(state, changed) {
      const chosen = page.chosen(state);
      fill(
        tabs,
        Object.entries(VIEWS)
          .filter(([, view]) => view.fits(chosen))
          .map(([name, view]) =>
            h("button", { type: "button", "aria-current": name === shown ? "page" : undefined, onclick: () => page.state.set({ view: name }) }, view.title),
          ),
      );
    },
    destroy() {},
  };
}

import { h } from "./dom.js";

/**
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function mapView(page) {
  const element = h("div", { class: "pl-map" });
  return { element, update(state, changed) {}, destroy() {} };
}

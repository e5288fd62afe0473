import { h } from "./dom.js";

/**
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function compareView(page) {
  const element = h("div", { class: "pl-compare" });
  return { element, update(state, changed) {}, destroy() {} };
}

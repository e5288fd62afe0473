import { h } from "./dom.js";

/**
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function crossView(page) {
  const element = h("div", { class: "pl-cross" });
  return { element, update(state, changed) {}, destroy() {} };
}

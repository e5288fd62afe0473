import { h } from "./dom.js";

/**
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function headsView(page) {
  const element = h("div", { class: "pl-heads" });
  return { element, update(state, changed) {}, destroy() {} };
}

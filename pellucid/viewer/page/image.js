import { h } from "./dom.js";

/**
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function imageView(page) {
  const element = h("div", { class: "pl-image" });
  return { element, update(state, changed) {}, destroy() {} };
}

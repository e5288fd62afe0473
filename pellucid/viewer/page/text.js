import { h } from "./dom.js";

/**
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function textView(page) {
  const element = h("div", { class: "pl-text" });
  return { element, update(state, changed) {}, destroy() {} };
}

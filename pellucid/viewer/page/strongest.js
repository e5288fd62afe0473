// A list of the strongest weights, each leading to its token.

import { inDigits } from "./colour.js";
import { fill, h } from "./dom.js";

/**
 * @typedef {{text: string, position: number, log: number, go: () => void, colour?: string}} Strong
 */

/**
 * @param {string} [empty] what is said where there is none
 */
export function strongestList(empty = "") {
  const title = h("h2", { class: "pl-strongest-title" });
  const list = h("ol", { class: "pl-strongest-list" });
  const note = h("p", { class: "pl-faint pl-strongest-note" });
  const element = h("section", { class: "pl-strongest" }, title, list, note);
  return {
    element,
    /**
     * @param {string} heading
     * @param {Strong[]} items
     * @param {string} [words]
     */
    show(heading, items, words = items.length ? "" : empty) {
      title.textContent = heading;
      element.hidden = !heading && !words;
      title.hidden = !heading;
      note.textContent = words;
      note.hidden = !words;
      const most = items.length ? Math.exp(items[0].log) : 1;
      fill(list, items.map((item) => h("li", {}, strongestButton(item, most))));
    },
  };
}

/**
 * @param {Strong} item
 * @param {number} most
 */
function strongestButton(item, most) {
  const weight = Math.exp(item.log);
  const bar = h("span", { class: "pl-strongest-bar", "aria-hidden": "true" });
  bar.style.width = `${(100 * weight) / most}%`;
  if (item.colour) bar.style.backgroundColor = item.colour;
  return h(
    "button",
    { type: "button", class: "pl-strongest-item", onclick: item.go, title: `go to position ${item.position}` },
    bar,
    h("bdi", { class: "pl-strongest-token" }, item.text),
    h("span", { class: "pl-faint" }, String(item.position)),
    h("span", { class: "pl-strongest-weight" }, inDigits(weight)),
  );
}

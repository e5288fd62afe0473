// Kinds of heads: a colour and a letter each, so that neither has to be told from the other alone.

import { h } from "./dom.js";

// The colours of Okabe and Ito, told apart with every kind of colour vision; the letters are the terminal's.
const kindLooks = /** @type {Record<string, [letter: string, colour: string, text: string]>} */ ({
  sink: ["S", "#e69f00", "#000000"],
  "previous token": ["P", "#0072b2", "#ffffff"],
  induction: ["I", "#d55e00", "#000000"],
  duplicate: ["D", "#cc79a7", "#000000"],
  local: ["L", "#56b4e9", "#000000"],
  focused: ["F", "#009e73", "#000000"],
  diffuse: ["·", "#f0e442", "#000000"],
  mixed: ["m", "#9aa0a8", "#000000"],
  unknown: ["?", "#ffffff", "#000000"],
});

/** The kinds, in the order in which legends have them. */
export const KINDS = Object.keys(kindLooks);

/**
 * What a head of a kind does, in a few words.
 * @type {Record<string, string>}
 */
export const KIND_MEANS = {
  sink: "puts nine tenths of its weight on the sink: the first token, or a learned one",
  "previous token": "reads the token before",
  induction: "reads what followed an earlier occurrence of the same token",
  duplicate: "reads other occurrences of the same token",
  local: "reads its neighbours",
  focused: "reads few tokens, not told by their place",
  diffuse: "reads nearly everything alike",
  mixed: "none of these alone",
  unknown: "the numbers that tell were not read",
};

/**
 * @param {string} kind
 * @returns {{letter: string, colour: string, text: string}}
 */
export function kindLook(kind) {
  const [letter, colour, text] = kindLooks[kind] ?? [kind.slice(0, 1) || "?", "#ffffff", "#000000"];
  return { letter, colour, text };
}

/**
 * The letter on its colour.
 * @param {string} kind
 * @returns {HTMLElement}
 */
export function kindBadge(kind) {
  const { letter, colour, text } = kindLook(kind);
  return h("span", { class: "pl-kind", title: kind, "aria-label": kind, role: "img", "data-letter": letter, style: { background: colour, color: text } });
}

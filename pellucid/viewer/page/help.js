// The help dialog: every key, and how to read what is on screen.

import { h } from "./dom.js";
import { KIND_MEANS, kindBadge } from "./kinds.js";
import { SHORTCUTS } from "./shortcuts.js";

const helpReading = [
  "Each row of a map is a query, the token that reads; each column is a key, what is read. A row's weights sum to 1, together with a learned sink where the model has one.",
  "A weight says how much of a value a head takes into its sum. It does not say why the model decided as it did: attention is not explanation.",
  "Many heads put most of their weight on the first token or on a learned sink, where it does nothing. The numbers “without the sink” are of what they do with the rest.",
];

/**
 * @returns {HTMLDialogElement}
 */
export function helpDialog() {
  const close = h("button", { type: "button", onclick: () => dialog.close() }, "Close");
  const dialog = h(
    "dialog",
    { class: "pl-help", "aria-label": "Help", onclick: outside },
    h("div", { class: "pl-help-body" }, h("div", { class: "pl-row pl-spread" }, h("h2", {}, "Help"), close), helpText(), helpKinds(), helpKeys()),
  );
  function outside(/** @type {MouseEvent} */ event) {
    if (event.target === dialog) dialog.close();
  }
  return dialog;
}

function helpText() {
  return h("section", {}, h("h3", {}, "Reading it"), helpReading.map((text) => h("p", {}, text)));
}

function helpKinds() {
  const rows = Object.entries(KIND_MEANS).map(([kind, means]) => [h("dt", {}, kindBadge(kind), " ", kind), h("dd", {}, means)]);
  return h("section", {}, h("h3", {}, "Kinds of heads"), h("dl", { class: "pl-help-list" }, rows.flat()));
}

function helpKeys() {
  const sections = SHORTCUTS.map(({ title, keys }) =>
    h("section", {}, h("h3", {}, title), h("dl", { class: "pl-help-list" }, keys.flatMap(([key, does]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, does)]))),
  );
  return h("div", { class: "pl-help-keys" }, sections);
}

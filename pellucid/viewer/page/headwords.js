// What the Heads view says: how to read it, what was missed, what to do where there is nothing.

import { h } from "./dom.js";
import { plainName } from "./choices.js";
import { KIND_MEANS, kindBadge, KINDS } from "./kinds.js";

/**
 * @typedef {import("./client.js").RecordInfo} RecordInfo
 */

/** How to read the wall and the scatter. */
export function headsHow() {
  return [
    h("h2", {}, "How to read it"),
    h("p", {}, "Every square is a head's whole map: queries downward, keys to the right, in some dozens of bins either way, each coloured from its own least weight to its own largest. A line along the diagonal reads near itself, an upright line is one token that everybody reads."),
    h("p", {}, "Point at a head for its numbers, click it for its map, Shift-click for several. The kind is a rule of thumb from the numbers, told of the weight beyond the sink unless the sink is counted."),
    h("ul", { class: "pl-heads-kinds" }, KINDS.map((kind) => h("li", {}, kindBadge(kind), ` ${kind}: ${KIND_MEANS[kind]}`))),
  ];
}

/**
 * @param {RecordInfo} record
 * @returns {HTMLElement | null}
 */
export function headsMissed(record) {
  if (!record.missed.length) return null;
  const rows = record.missed.map(({ name, reason }) => h("li", {}, h("b", {}, plainName(name, 120)), `: ${plainName(reason, 2000)}`));
  const title = record.missed.length === 1 ? "1 module was missed: its heads are not here" : `${record.missed.length} modules were missed: their heads are not here`;
  return h("details", { class: "pl-missed", open: true }, h("summary", {}, title), h("ul", {}, rows));
}

/**
 * @param {RecordInfo} record without a layer
 * @returns {HTMLElement}
 */
export function headsEmpty(record) {
  const what = record.following
    ? "No layer has been written yet. The first appears here by itself."
    : record.missed.length
      ? "No layer was read: every attention module that was found was missed, for the reasons below."
      : "This record holds no layer: nothing that attends ran while the model was watched.";
  const how = "with pellucid.watch(model) as record:\n    model(**inputs)\nrecord.save(\"run.attn\")";
  return h("div", { class: "pl-empty" }, h("p", {}, what), record.following ? null : h("p", {}, "A record is made by running the model within watch:"), record.following ? null : h("pre", {}, how));
}

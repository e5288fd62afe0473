// An example of what a head does: a passage of a document, the query outlined, keys shaded by the weight that they take.

import { h } from "./dom.js";
import { plainName } from "./choices.js";
import { shownNumber } from "./headmodel.js";
import { inThousands } from "./profilemodel.js";
import { shownToken } from "./tokens.js";

/**
 * @typedef {import("./profilemodel.js").Example} Example
 * @typedef {import("./profilemodel.js").Passage} Passage
 * @typedef {import("./profilemodel.js").Piece} Piece
 */

const profileLeast = 0.005; // of a weight that is shaded

/**
 * @param {Example} example
 * @param {string} what the value is
 */
export function exampleText(example, what) {
  const { document: from, query, key, length } = example;
  const place = query === null ? (key === null ? "" : `key ${key}`) : `query ${query}${key === null ? "" : ` → key ${key}`}`;
  const weight = example.weight === null ? "" : ` with ${shownNumber(example.weight)}`;
  const text = example.passages.flatMap((passage, at) => [passageGap(example, at), ...passage.pieces.flatMap((piece, place) => [passage.apart && place && !piece[1]?.startsWith("##") ? " " : "", pieceText(piece)])]);
  return h(
    "li",
    { class: "pl-example" },
    h("p", { class: "pl-faint" }, h("b", { class: "pl-example-value", title: what }, shownNumber(example.value)), ` ${plainName(from.name, 80)}, ${place}${weight}, of ${inThousands(length)} tokens`),
    text.length ? h("p", { class: "pl-example-text", dir: "auto" }, text) : h("p", { class: "pl-faint" }, "its text was not kept"),
  );
}

/**
 * What stands between a passage and the one before it.
 * @param {Example} example
 * @param {number} at
 */
function passageGap(example, at) {
  const { of_source: ofSource, pieces } = example.passages[at];
  if (ofSource && !example.passages[at - 1]?.of_source) return h("span", { class: "pl-faint" }, at ? " ‖ source: " : "source: ");
  return at || pieces[0][0] > 0 ? h("span", { class: "pl-faint", title: `from token ${pieces[0][0]} on` }, at ? " … " : "… ") : null;
}

/** @param {Piece} piece */
function pieceText([position, token, weight, isQuery, isKey]) {
  const marked = weight !== null && weight >= profileLeast;
  const classes = [isQuery ? "pl-example-query" : "", isKey ? "pl-example-key" : "", marked ? "pl-example-seen" : ""].filter(Boolean).join(" ");
  const shown = token === null ? "·" : tokenShown(token);
  if (!classes) return shown;
  const said = [isQuery ? "the query" : "", marked ? `takes ${shownNumber(weight)}` : "", isKey ? "the key" : ""].filter(Boolean).join(", ");
  return h("bdi", { class: classes, title: `token ${position}: ${said}`, style: marked ? { "--pl-weight": `${Math.round(15 + 75 * Math.min(weight, 1))}%` } : undefined }, shown, h("span", { class: "pl-live" }, ` (${said})`));
}

/** @param {string} token */
function tokenShown(token) {
  const lead = token.startsWith(" ") && token.trim() ? " " : "";
  return lead + shownToken(token, 60);
}

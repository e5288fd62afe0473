// What a saved picture is called, the same for all views: record, place, view, with a hyphen for whatever a file's name may not have.

import { plainName } from "./choices.js";
import { mapHeads } from "./words.js";

/**
 * @param {import("./client.js").RecordInfo | undefined} record
 * @param {import("./app.js").Chosen[]} places
 * @param {string} view in a word or two
 * @param {"png" | "svg"} kind
 * @returns {string}
 */
export function pictureName(record, places, view, kind) {
  const words = [plainName(record?.title || "record", 40), places.map(nameOfPlace).join(" and "), view].filter(Boolean);
  const name = words.map(nameHyphened).join("-");
  return `${plainName(name, 180).replace("…", "-")}.${kind}`;
}

/** @param {import("./app.js").Chosen} chosen */
function nameOfPlace(chosen) {
  const sequence = chosen.layer.batch > 1 ? ` sequence ${chosen.sequence}` : "";
  return `${plainName(chosen.layer.name, 48)} ${plainName(mapHeads(chosen), 40)}${sequence}`;
}

/** @param {string} text */
function nameHyphened(text) {
  return text.replace(/[^\p{L}\p{N}._]+/gu, "-").replace(/^[-.]+|[-.]+$/g, "");
}

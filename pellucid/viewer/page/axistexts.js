// The texts of an axis, place by place: tokens where they are known, else what stands there, else its position.

import { placeLabel } from "./frames.js";
import { axisTokens, shownToken } from "./tokens.js";

/**
 * @typedef {{texts: string[], chips: Set<number>, special: Set<number>, named: Set<number>, offset: number,
 *   after: string, tokens: string[] | null}} AxisTexts chips: places that are no part of a running text; named: those whose text is no token but says
 *   where they are; offset: the position of the first; after: the token that follows the last; tokens: of the whole text
 */

/**
 * @param {import("./app.js").Chosen} chosen
 * @param {import("./client.js").Tokens} tokens
 * @param {"queries" | "keys"} axis
 * @param {number} [length] where it is not the axis's own
 * @returns {AxisTexts}
 */
export function axisTexts(chosen, tokens, axis, length) {
  const { record, layer, sequence } = chosen;
  const list = axisTokens(layer, tokens, axis);
  const count = length ?? (axis === "queries" ? layer.q_len : layer.k_len);
  /** @type {AxisTexts} */
  const found = { texts: [], chips: new Set(), special: new Set(), named: new Set(), offset: list.offset, after: "", tokens: list.texts };
  const labelled = record.frames.length > 0 || record.images.length > 0;
  for (let i = 0; i < count; i++) {
    const token = list.texts?.[list.offset + i];
    const label = labelled ? placeLabel(record, layer, axis, i, sequence) : null;
    found.texts.push(label ?? token ?? String(list.offset + i));
    if (list.special.has(list.offset + i)) found.special.add(i);
    if (label !== null || token === undefined) found.named.add(i);
    if (found.named.has(i) || found.special.has(i)) found.chips.add(i);
  }
  found.after = shownToken(list.texts?.[list.offset + count] || "", 30).replace("∅", "");
  return found;
}

/**
 * A place as a sentence names it: ‘mars’ (5).
 * @param {AxisTexts} axis
 * @param {number} index
 * @returns {string}
 */
export function placeName(axis, index) {
  const position = axis.offset + index;
  const text = axis.texts[index];
  if (text === undefined || text === String(position)) return `position ${position}`;
  return axis.named.has(index) ? `${text} (${position})` : `‘${shownToken(text, 30)}’ (${position})`;
}

/**
 * A place in a list: its token on one line.
 * @param {AxisTexts} axis
 * @param {number} index
 * @returns {string}
 */
export function placeText(axis, index) {
  const text = axis.texts[index] ?? "";
  return axis.named.has(index) ? text : shownToken(text, 28);
}

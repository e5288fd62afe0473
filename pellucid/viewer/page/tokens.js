// Tokens as they may be shown: whatever they hold, on one line and in their own order.

const tokenPictures = /** @type {Record<string, string>} */ ({ "\n": "⏎", "\r": "␍", "\t": "⇥", "": "∅" });

/**
 * A token on an axis or a label: spaces as ␣, ends of lines as ⏎, what would turn a line round or hide as �; long ones cut.
 * @param {string} token
 * @param {number} [longest] characters
 * @returns {string}
 */
export function shownToken(token, longest = 24) {
  if (token === "") return tokenPictures[""];
  const trimmed = token.length > 1 && token.startsWith(" ") && token.trim() ? token.slice(1) : token;
  const characters = Array.from(trimmed.length > longest * 2 ? trimmed.slice(0, longest * 2) : trimmed);
  const cut = characters.length > longest || trimmed.length > longest * 2;
  const kept = cut ? characters.slice(0, longest - 1) : characters;
  return kept.map((character, at) => (tokenJoins(characters, at) ? character : shownCharacter(character))).join("") + (cut ? "…" : "");
}

/**
 * Whether a character is the joiner that makes one sign of two emoji; anywhere else it would hide.
 * @param {string[]} characters
 * @param {number} at
 */
function tokenJoins(characters, at) {
  if (characters[at] !== "\u200d") return false;
  return /[\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f]/u.test(characters[at - 1] ?? "") && /\p{Extended_Pictographic}/u.test(characters[at + 1] ?? "");
}

/**
 * @param {string} character
 * @returns {string}
 */
function shownCharacter(character) {
  if (character in tokenPictures) return tokenPictures[character];
  const code = character.codePointAt(0) ?? 0;
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === 0x7f) return "␡";
  if (/\p{Zs}/u.test(character)) return "␣";
  if (/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u.test(character)) return "�";
  return character;
}

/**
 * A token as running text keeps it: ends of lines stay, what would reorder or hide is shown.
 * @param {string} token
 * @returns {string}
 */
export function textOfToken(token) {
  return token.replace(/[^\P{C}\n\t\u200c\u200d]/gu, (character) => shownCharacter(character));
}

/**
 * The tokens of an axis, of a record's two lists; null where they are not known.
 * @param {import("./client.js").LayerInfo} layer
 * @param {import("./client.js").Tokens} tokens
 * @param {"queries" | "keys"} axis
 * @returns {{texts: string[] | null, offset: number, special: Set<number>}} token i of the axis is texts[offset + i]
 */
export function axisTokens(layer, tokens, axis) {
  const list = layer.tokens[axis];
  const special = list === "own" ? tokens.own_special : list === "source" ? tokens.source_special : [];
  const texts = list === null ? null : tokens[list];
  return { texts, offset: axis === "queries" ? layer.query_offset : 0, special: new Set(special) };
}

/**
 * The label of a place on an axis: its token and its position, or the position alone.
 * @param {{texts: string[] | null, offset: number}} axis
 * @param {number} index
 * @param {number} [longest]
 * @returns {string}
 */
export function labelAt(axis, index, longest) {
  const token = axis.texts?.[axis.offset + index];
  return token === undefined ? String(axis.offset + index) : shownToken(token, longest);
}

/**
 * A place in a list or a sentence: what stands there (`1.24 s`, `patch 3,5`) where something is known to, else its label.
 * @param {{texts: string[] | null, offset: number, place?: (index: number) => string | null}} axis
 * @param {number} index
 * @param {number} [longest]
 * @returns {string}
 */
export function namedAt(axis, index, longest) {
  return axis.place?.(index) ?? labelAt(axis, index, longest);
}

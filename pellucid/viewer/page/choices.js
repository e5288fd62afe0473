// What the pickers mean by what is typed or pressed: heads as text, the head or layer beside, and names that can be read.

import { textOfToken } from "./tokens.js";

/**
 * @typedef {import("./client.js").LayerInfo} LayerInfo
 */

/**
 * Heads typed by the numbers that the model has for them, `all`, `3`, `0,2` or `4-7`, as the address has them: by place.
 * @param {string} text
 * @param {LayerInfo} layer
 * @returns {string | null} null where it cannot be read
 */
export function headsTyped(text, layer) {
  const parts = text.trim().toLowerCase().split(/[\s,;]+/).filter(Boolean);
  if (!parts.length || (parts.length === 1 && parts[0] === "all")) return "all";
  /** @type {Set<number>} */
  const places = new Set();
  for (const part of parts) {
    const [from, to] = /^\d+-\d+$/.test(part) ? part.split("-").map(Number) : [Number(part), Number(part)];
    const within = layer.head_numbers.map((number, place) => (number >= from && number <= to ? place : -1)).filter((place) => place >= 0);
    if (!/^\d+(-\d+)?$/.test(part) || !within.length) return null;
    for (const place of within) places.add(place);
  }
  return placesAsText([...places], layer);
}

/**
 * @param {number[]} places
 * @param {LayerInfo} layer
 * @returns {string}
 */
export function placesAsText(places, layer) {
  const ordered = [...new Set(places)].sort((a, b) => a - b);
  return !ordered.length || (ordered.length === layer.heads && layer.heads > 1) ? "all" : ordered.join(",");
}

/**
 * Chosen heads in words: `all`, `3`, `0,2`, by the model's numbers.
 * @param {number[]} places
 * @param {LayerInfo} layer
 * @returns {string}
 */
export function headsAsTyped(places, layer) {
  if (places.length === layer.heads && layer.heads > 1) return "all";
  return places.map((place) => layer.head_numbers[place]).join(",");
}

/**
 * The head beside the chosen one, round the ends; of several, the first or the last.
 * @param {number[]} places
 * @param {LayerInfo} layer
 * @param {1 | -1} step
 * @returns {string}
 */
export function headBeside(places, layer, step) {
  if (places.length !== 1) return String(step > 0 ? 0 : layer.heads - 1);
  return String((places[0] + step + layer.heads) % layer.heads);
}

/**
 * A name of somebody's on one line: what would hide or turn it round is shown; long ones are cut in their middle.
 * @param {string} name
 * @param {number} [longest] characters
 * @returns {string}
 */
export function plainName(name, longest = 60) {
  const few = name.length > longest * 8 ? name.slice(0, longest * 4) + name.slice(-longest * 4) : name;
  const characters = Array.from(textOfToken(few).replace(/\s+/g, " "));
  if (characters.length <= longest) return characters.join("");
  const head = Math.ceil((longest - 1) / 2);
  return `${characters.slice(0, head).join("")}…${characters.slice(characters.length - (longest - 1 - head)).join("")}`;
}

/**
 * A layer in a list: number, name, role, size.
 * @param {LayerInfo} layer
 * @returns {string}
 */
export function layerInWords(layer) {
  const heads = layer.heads === 1 ? "1 head" : `${layer.heads} heads`;
  return `${layer.number} · ${plainName(layer.name, 48)} · ${layer.role} · ${heads} · ${layer.q_len} × ${layer.k_len}`;
}

/**
 * Which model a record is of, for a picture whose title names the record; nothing where that is its title already.
 * @param {import("./client.js").RecordInfo} record
 * @returns {string}
 */
export function modelNote({ title, model }) {
  return model && !title.startsWith(model) ? `Model: ${shortModel(model)}.` : "";
}

/**
 * A model in a title: of what is a path, its last two parts.
 * @param {string} model
 * @returns {string}
 */
export function shortModel(model) {
  const words = model.split(/\s+/).map((word) => (word.split(/[\\/]/).length > 3 ? word.split(/[\\/]/).slice(-2).join("/") : word));
  return plainName(words.join(" "), 60);
}

// Every key of the page, by the view that hears it: what the help dialog lists.

import { MAP_KEYS } from "./mapkeys.js";

/**
 * @typedef {{title: string, keys: [string, string][]}} Shortcuts the key as it is written on a keyboard, and what it does
 */

/** @type {Shortcuts[]} */
export const SHORTCUTS = [
  {
    title: "Everywhere",
    keys: [
      ["?", "this help"],
      ["[ ]", "the head before, the next head"],
      ["{ }", "the layer before, the next layer"],
      [", .", "a lesson's step back, and on"],
      ["Esc", "closes a menu or a card"],
    ],
  },
  {
    title: "Heads",
    keys: [
      ["← → ↑ ↓", "from head to head, in the wall and in the scatter"],
      ["Home End", "the first head, the last one"],
      ["Enter", "opens the head's map"],
    ],
  },
  { title: "Map and Compare", keys: MAP_KEYS },
];

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
      ["Enter", "opens the head's map; with Shift it joins the chosen heads"],
    ],
  },
  { title: "Map and Compare", keys: MAP_KEYS },
  {
    title: "Text and Two texts",
    keys: [
      ["← → ↑ ↓", "from token to token"],
      ["Page Up, Page Down", "a page of the text up or down"],
      ["Home End", "the first token, the last one"],
      ["Enter, Esc", "fix the token, free all; with Shift several"],
      ["/ n N", "in Text: find, the next place found, the one before"],
      ["g", "in Text: go to a position"],
    ],
  },
  {
    title: "Image",
    keys: [
      ["← → ↑ ↓", "from patch to patch"],
      ["Home End", "the first patch, the last one"],
      ["Enter, Esc", "fix the patch, free all; with Shift several"],
    ],
  },
];

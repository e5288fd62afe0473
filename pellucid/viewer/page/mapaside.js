// Beside a map that leaves room: what is under the crosshair, and what its query reads most.

import { strongest } from "./attending.js";
import { fill, h } from "./dom.js";
import { strongestList } from "./strongest.js";
import { isPair } from "./words.js";
import { labelAt } from "./tokens.js";

/**
 * @typedef {import("./panel.js").MapPanel} MapPanel
 * @typedef {import("./source.js").Cell} Cell
 */

const asideRoom = { least: 270, most: 380, gap: 16 }; // pixels
const asideKeys = 12;

/** @param {(key: number) => void} go */
export function mapAside(go) {
  const lines = h("div", { class: "pl-map-aside-lines" });
  const list = strongestList();
  const element = h("aside", { class: "pl-map-aside", "aria-label": "under the crosshair", hidden: true }, lines, list.element);
  let shown = "";
  let listed = "";
  return {
    element,
    /**
     * Take the room right of a map where there is enough of it. Whether there is.
     * @param {number} left where the room begins, in pixels
     * @param {number} room
     */
    fits(left, room) {
      element.hidden = room < asideRoom.least;
      element.style.left = `${left + asideRoom.gap}px`;
      element.style.width = `${Math.min(room - asideRoom.gap, asideRoom.most)}px`;
      return !element.hidden;
    },
    /** @param {string[]} said */
    say(said) {
      const text = said.join("\n");
      if (text !== shown) fill(lines, said.map((line) => h("div", {}, h("bdi", {}, line))));
      shown = text;
    },
    /** @param {MapPanel} panel @param {Cell | null} cell */
    list(panel, cell) {
      const row = cell && asideRow(panel, cell);
      const name = row && cell ? `${panel.source?.owner} ${panel.axesOf} ${cell.q0} ${panel.keys.text.texts?.length}` : "";
      if (name === listed || (cell && asideMayList(panel, cell) && !row)) return; // the list before stays until the next is here
      listed = name;
      if (!row || !cell) return list.show("", []);
      const { keys, queries } = panel;
      const items = strongest(row, asideKeys).map((key) => ({ text: labelAt(keys.text, key, 40), position: key, log: row[key], go: () => go(key) }));
      list.show(`${labelAt(queries.text, cell.q0, 30)} (${queries.text.offset + cell.q0}) reads most`, items);
    },
  };
}

/** @param {MapPanel} panel @param {Cell} cell */
function asideMayList(panel, cell) {
  return cell.q1 - cell.q0 <= 1 && isPair(cell) && Boolean(panel.chosen?.layer.exact) && !panel.rows.isRefused(panel.source?.owner ?? "", cell.q0);
}

/** @param {MapPanel} panel @param {Cell} cell @returns {Float32Array | null} */
function asideRow(panel, cell) {
  const { chosen, source } = panel;
  return chosen && source && asideMayList(panel, cell) ? panel.rows.row(source.owner, chosen.place, cell.q0) : null;
}

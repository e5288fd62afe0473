// Beside a map that leaves room: what is under the crosshair, and what its query reads most, or who reads its key; where there
// is no crosshair, which keys receive most of all queries.

import { strongest } from "./attending.js";
import { fill, h } from "./dom.js";
import { strongestList } from "./strongest.js";
import { lineTitle } from "./words.js";
import { namedAt } from "./tokens.js";

/**
 * @typedef {import("./panel.js").MapPanel} MapPanel
 * @typedef {import("./rows.js").Line} Line
 */

const asideRoom = { least: 270, most: 380, gap: 16 }; // pixels
const asideKeys = 12;

/** @param {(axis: Line["axis"], place: number) => void} go to another key, or query, of the crosshair, or to one alone */
export function mapAside(go) {
  const lines = h("div", { class: "pl-map-aside-lines" });
  const list = strongestList();
  list.show("", []); // no heading that is empty
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
    /** @param {MapPanel} panel @param {Line | null} line the row of a query, or the column of a key */
    list(panel, line) {
      if (!line) return this.receive(panel);
      const logs = lineOf(panel, line);
      const name = logs ? `${panel.source?.owner} ${panel.axesOf} ${line.axis} ${line.index} ${panel.keys.text.texts?.length}` : "";
      if (name === listed || isAwaited(panel, line)) return; // the list before stays until the next is here
      listed = name;
      if (!logs) return list.show("", []);
      const [own, others] = line.axis === "queries" ? [panel.queries.text, panel.keys.text] : [panel.keys.text, panel.queries.text];
      const axis = line.axis === "queries" ? "keys" : "queries";
      const items = strongest(logs, asideKeys).map((place) => ({ text: namedAt(others, place, 40), position: others.offset + place, log: logs[place], go: () => go(axis, place) }));
      list.show(lineTitle(line, own), items, items.length ? "" : "no weight");
    },
    /** @param {MapPanel} panel */
    receive(panel) {
      const values = element.hidden ? null : panel.received?.values;
      const { text } = panel.keys;
      const name = values ? `${panel.source?.owner} ${panel.axesOf} received ${text.texts?.length}` : "";
      if (name === listed) return;
      listed = name;
      if (!values) return list.show("", []);
      const logs = values.map(Math.log);
      const items = strongest(logs, asideKeys).map((place) => ({ text: namedAt(text, place, 40), position: text.offset + place, log: logs[place], go: () => go("keys", place) }));
      list.show("received most, summed over all queries", items, items.length ? "" : "no weight");
    },
  };
}

/** @param {MapPanel} panel @param {Line} line */
function asideMayList(panel, line) {
  return Boolean(panel.chosen?.layer.exact) && !panel.rows.isRefused(panel.source?.owner ?? "", line);
}

/**
 * Whether a row or a column can be had, and is not here yet.
 * @param {MapPanel} panel
 * @param {Line} line
 */
export function isAwaited(panel, line) {
  return asideMayList(panel, line) && !lineOf(panel, line);
}

/**
 * The weights of a row or a column, once they are here.
 * @param {MapPanel} panel
 * @param {Line} line
 * @returns {Float32Array | null}
 */
export function lineOf(panel, line) {
  const { chosen, source } = panel;
  return chosen && source && asideMayList(panel, line) ? panel.rows.line(source.owner, chosen.place, line) : null;
}

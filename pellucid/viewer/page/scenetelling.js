// Says what a scene shows: how exact it is, how far it has come, and what lies under the crosshair.

import { cardLines, hoverCard, lineLines } from "./card.js";
import { placeInProportion } from "./difference.js";
import { isAwaited, mapAside } from "./mapaside.js";
import { exactnessInWords, isPair, rowsInWords } from "./words.js";

/**
 * @typedef {import("./panel.js").MapPanel} MapPanel
 */

const tellingHint = ["Point at the map to see a weight here.", "Click, or move with the arrows, to keep it."];

export class SceneTelling {
  /** @param {import("./scene.js").MapScene} scene */
  constructor(scene) {
    this.scene = scene;
    this.card = hoverCard();
    this.aside = mapAside((axis, place) => scene.fixOther(axis, place));
    this.words = "";
    /** @type {Record<string, string>} where each mark of the browser's clock was last set */
    this.marked = {};
  }

  /** @param {MapPanel} lead */
  say(lead) {
    const { scene } = this;
    const { camera } = scene;
    const said = scene.panels.map((panel) => {
      const { chosen, source } = panel;
      if (!chosen || !source) return "";
      const words = exactnessInWords(source.known(scene.drawing.visibleOf(panel), lead.pane.pixels), chosen);
      const empty = !source.grids(scene.drawing.visibleOf(panel), lead.pane.pixels).length;
      panel.message.textContent = empty ? (chosen.layer.map ? words : `${words}: watch the model with keep=True, or with more=[pellucid.Pooled(64, 64)]`) : "";
      panel.message.hidden = !empty;
      return words;
    });
    const apart = new Set(said).size > 1;
    const text = apart ? said.map((words, number) => `${scene.panels[number].label}: ${words}`).join("; ") : said[0];
    const unlike = scene.drawing.unlike ? "; lengths differ, so positions of B are taken in proportion" : "";
    const { visible, lengths } = camera;
    const range = (/** @type {number} */ from, /** @type {number} */ to, /** @type {number} */ length) => `${Math.max(0, Math.floor(from))} – ${Math.max(0, Math.min(length, Math.ceil(to)) - 1)} of ${length}`;
    const named = rowsInWords(scene.panels[0].chosen?.layer);
    const where = `queries ${range(visible.q0, visible.q1, lengths.q)}${named && `, ${named}`}, keys ${range(visible.k0, visible.k1, lengths.k)}`;
    this.words = text + unlike;
    const full = `${this.words} · ${where}`;
    if (scene.status.textContent !== full) scene.status.textContent = full;
  }

  /**
   * Say to whoever waits for it how far the drawing is: nothing, coarse, final.
   * @param {MapPanel} lead
   */
  progress(lead) {
    const { scene } = this;
    const { pixels } = lead.pane;
    const states = scene.panels.map(({ source, chosen }) => {
      if (!source || !chosen) return "nothing";
      const visible = scene.drawing.visibleOf({ source });
      const known = source.known(visible, pixels);
      if (known.ready === known.total || (known.refused && !scene.store.asked.size)) return "final";
      return source.grids(visible, pixels).length ? "coarse" : "nothing";
    });
    const drawn = states.includes("nothing") ? "nothing" : states.includes("coarse") ? "coarse" : "final";
    const still = drawn !== "final" || scene.movementTimer !== 0;
    scene.element.setAttribute("aria-busy", String(still));
    scene.element.dataset.drawn = drawn;
    const where = JSON.stringify([scene.camera.visible, scene.panels.map((panel) => panel.source?.owner)]);
    for (const [mark, reached] of /** @type {const} */ ([["pl-drawn", drawn !== "nothing"], ["pl-final", drawn === "final"]])) {
      if (reached && this.marked[mark] !== where) tellingMark(mark);
      if (reached) this.marked[mark] = where;
    }
  }

  /** @param {MapPanel} lead */
  showCard(lead) {
    const { scene } = this;
    const { looked, fixed, camera } = scene;
    const place = looked?.place ?? (fixed && camera.shows(fixed) ? fixed : null);
    const panel = looked?.panel ?? lead;
    const size = { width: scene.body.clientWidth, height: scene.body.clientHeight };
    const beside = this.hasRoom(lead);
    if (!place) {
      this.aside.say(tellingHint);
      this.aside.list(lead, null);
      return this.card.show([], { x: 0, y: 0 }, size);
    }
    const parts = scene.panels.map((one) => {
      const { source } = one;
      if (!source) return { panel: one, cell: null };
      const [q, k] = [placeInProportion(place.q, camera.lengths.q, source.lengths.q), placeInProportion(place.k, camera.lengths.k, source.lengths.k)];
      return { panel: one, cell: source.at(q, k, scene.drawing.visibleOf(one), lead.pane.pixels) };
    });
    const alone = tellingAlone(place);
    const lines = alone ? lineLines(scene.panels[0], alone, !beside) : cardLines(parts);
    const { layout } = panel.pane;
    const corner = this.cornerOf(panel);
    const [q, k] = [Number.isNaN(place.q) ? camera.middle.q : place.q, Number.isNaN(place.k) ? camera.middle.k : place.k];
    const at = looked ?? { x: (k + 1 - camera.visible.k0) / camera.each.k, y: (q + 1 - camera.visible.q0) / camera.each.q };
    if (beside) {
      const { cell } = parts[0];
      this.aside.say(lines);
      this.aside.list(lead, alone ?? (cell && isPair(cell) ? { axis: "queries", index: cell.q0 } : null));
    }
    this.card.show(beside ? [] : lines, { x: corner.x + layout.left + at.x, y: corner.y + layout.top + at.y }, size);
    const awaited = parts.some(({ panel: one, cell }) => cell && isPair(cell) && isAwaited(one, { axis: "queries", index: cell.q0 }));
    if (scene.speaks && lines.length && !awaited) {
      scene.speaks = false;
      scene.page.announce(lines.join(", "));
    }
  }

  /** Whether one square map leaves room beside it for what would else lie over it. @param {MapPanel} lead */
  hasRoom(lead) {
    const { camera, difference } = this.scene;
    const { left, width } = lead.pane.layout;
    const shown = Math.min(width, (camera.lengths.k - camera.visible.k0) / camera.each.k);
    const beside = this.aside.fits(this.cornerOf(lead).x + left + shown, difference ? 0 : width - shown);
    lead.message.style.insetInline = beside ? `${left + 8}px ${width - shown + 8}px` : ""; // within the map
    return beside;
  }

  /** @param {MapPanel} panel */
  cornerOf(panel) {
    const { body } = this.scene;
    const [inner, outer] = [panel.pane.element, body].map((element) => element.getBoundingClientRect());
    return { x: inner.left - outer.left + body.scrollLeft, y: inner.top - outer.top + body.scrollTop };
  }
}

/**
 * The query of a crosshair that has no key, or its key where it has no query.
 * @param {import("./viewport.js").Pair} place
 * @returns {import("./rows.js").Line | null}
 */
function tellingAlone({ q, k }) {
  if (Number.isNaN(k)) return { axis: "queries", index: q };
  return Number.isNaN(q) ? { axis: "keys", index: k } : null;
}

/** @param {string} name */
function tellingMark(name) {
  if (performance.getEntriesByName(name).length > 500) performance.clearMarks(name); // a drag marks every frame
  performance.mark(name);
}

// Keys of the map and compare views.

/**
 * @typedef {{pan: (down: number, right: number) => void, zoom: (q: number, k: number) => void, whole: () => void,
 *   step: (down: number, right: number) => void, strongest: () => void, found: (way: 1 | -1) => void, search: () => void,
 *   free: () => void, fix: () => void}} KeyMeaning pan: in parts of what is visible; step: the crosshair, by a cell
 */

/** For the dialog that lists all keys. */
export const MAP_KEYS = /** @type {[string, string][]} */ ([
  ["← → ↑ ↓", "move over the map"],
  ["Page Up, Page Down", "a page of queries up or down"],
  ["+ -", "zoom in and out"],
  ["x X", "zoom the axis of keys in and out"],
  ["y Y", "zoom the axis of queries in and out"],
  ["0, Home", "the whole map"],
  ["Shift with an arrow", "the crosshair to the next cell, which is read out"],
  ["Enter, Esc", "fix the crosshair, free it"],
  ["s", "go to the strongest of what is visible"],
  ["/", "go to a token by its text or number"],
  ["n N", "the next place found, the one before"],
  ["wheel", "zoom about the pointer; with Shift the keys alone, with Alt the queries alone"],
  ["double click", "zoom in; with Shift out"],
]);

const mapkeysArrows = /** @type {Record<string, [number, number]>} */ ({ ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] });

/**
 * @param {KeyboardEvent} event
 * @param {KeyMeaning} meaning
 * @returns {void}
 */
export function mapKey(event, meaning) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const target = event.composedPath()[0];
  const pressed = target instanceof Element && target.matches("button, summary, input, a, [role=menuitem], [role=tab]");
  const act = mapkeysAct(event, meaning, pressed);
  if (!act) return;
  event.preventDefault();
  act();
}

/**
 * @param {KeyboardEvent} event
 * @param {KeyMeaning} meaning
 * @param {boolean} pressed whether what has the focus is pressed by Enter itself
 * @returns {(() => void) | null}
 */
function mapkeysAct(event, meaning, pressed) {
  const arrow = mapkeysArrows[event.key];
  if (arrow) return event.shiftKey ? () => meaning.step(...arrow) : () => meaning.pan(arrow[0] * 0.15, arrow[1] * 0.15);
  /** @type {Record<string, () => void>} */
  const acts = {
    "+": () => meaning.zoom(1.5, 1.5),
    "=": () => meaning.zoom(1.5, 1.5),
    "-": () => meaning.zoom(1 / 1.5, 1 / 1.5),
    _: () => meaning.zoom(1 / 1.5, 1 / 1.5),
    x: () => meaning.zoom(1, 1.5),
    X: () => meaning.zoom(1, 1 / 1.5),
    y: () => meaning.zoom(1.5, 1),
    Y: () => meaning.zoom(1 / 1.5, 1),
    0: meaning.whole,
    Home: meaning.whole,
    PageUp: () => meaning.pan(-0.9, 0),
    PageDown: () => meaning.pan(0.9, 0),
    s: meaning.strongest,
    n: () => meaning.found(1),
    N: () => meaning.found(-1),
    "/": meaning.search,
    Escape: meaning.free,
  };
  if (event.key === "Enter") return pressed ? null : meaning.fix;
  return Object.hasOwn(acts, event.key) ? acts[event.key] : null;
}

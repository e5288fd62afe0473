// What part of a map is on screen, and which tiles show it. Plain numbers: nothing here draws or asks.

/**
 * @typedef {{q0: number, q1: number, k0: number, k1: number}} Visible in rows and keys, which it may cut anywhere
 * @typedef {{q: number, k: number}} Pair one number for the axis of queries, one for that of keys
 * @typedef {{zq: number, zk: number, i: number, j: number}} TilePlace
 */

export const TILE_SIDE = 256; // bins
const viewportLargestCell = 140; // pixels: a pair is never drawn larger

/**
 * Whether cells are square where nobody says otherwise: lengths so unlike that one axis would be a sliver fill instead.
 * @param {Pair} lengths
 * @returns {boolean}
 */
export function squareByItself(lengths) {
  const ratio = lengths.q / Math.max(lengths.k, 1);
  return ratio <= 3 && ratio >= 1 / 3;
}

/**
 * The whole map in an area; with square cells it begins at the first pair and may end before the area does.
 * @param {Pair} lengths
 * @param {Pair} pixels height as q, width as k
 * @param {boolean} square
 * @returns {Visible}
 */
export function wholeMap(lengths, pixels, square) {
  const spans = { q: Math.max(lengths.q, 1), k: Math.max(lengths.k, 1) };
  if (!square) return { q0: 0, q1: spans.q, k0: 0, k1: spans.k };
  const each = Math.max(spans.q / pixels.q, spans.k / pixels.k);
  return { q0: 0, q1: each * pixels.q, k0: 0, k1: each * pixels.k };
}

/**
 * The nearest that may be shown: no further out than the whole, no further in than the largest cell, on the map.
 * @param {Visible} visible
 * @param {Pair} lengths
 * @param {Pair} pixels
 * @param {boolean} square
 * @returns {Visible}
 */
export function withinMap(visible, lengths, pixels, square) {
  const whole = wholeMap(lengths, pixels, square);
  let q = viewportFactor(visible.q1 - visible.q0, whole.q1, pixels.q);
  let k = viewportFactor(visible.k1 - visible.k0, whole.k1, pixels.k);
  if (square) q = k = Math.max(q, k);
  const [q0, q1] = viewportPlaced(visible.q0, visible.q1, whole.q1 * q, lengths.q);
  const [k0, k1] = viewportPlaced(visible.k0, visible.k1, whole.k1 * k, lengths.k);
  return { q0, q1, k0, k1 };
}

/**
 * @param {number} span
 * @param {number} whole
 * @param {number} pixels
 */
function viewportFactor(span, whole, pixels) {
  const least = Math.min(pixels / viewportLargestCell, whole);
  return Math.min(Math.max(span, least), whole) / whole;
}

/**
 * @param {number} from
 * @param {number} to
 * @param {number} span
 * @param {number} length
 * @returns {[number, number]}
 */
function viewportPlaced(from, to, span, length) {
  const start = Math.max(0, Math.min((from + to - span) / 2, length - span));
  return [start, start + span];
}

/**
 * @param {Visible} visible
 * @param {number} q rows
 * @param {number} k keys
 * @returns {Visible}
 */
export function movedBy(visible, q, k) {
  return { q0: visible.q0 + q, q1: visible.q1 + q, k0: visible.k0 + k, k1: visible.k1 + k };
}

/**
 * Zoomed about a point that stays where it is; factors above 1 go in.
 * @param {Visible} visible
 * @param {Pair} factor
 * @param {Pair} at in rows and keys
 * @returns {Visible}
 */
export function zoomedAbout(visible, factor, at) {
  return {
    q0: at.q - (at.q - visible.q0) / factor.q,
    q1: at.q + (visible.q1 - at.q) / factor.q,
    k0: at.k - (at.k - visible.k0) / factor.k,
    k1: at.k + (visible.k1 - at.k) / factor.k,
  };
}

/**
 * The finest level whose bins are at least a pixel apart: bins of 2^level tokens.
 * @param {number} span tokens
 * @param {number} pixels
 * @returns {number}
 */
export function levelFor(span, pixels) {
  return Math.max(0, Math.ceil(Math.log2(span / Math.max(pixels, 1)) - 1e-9));
}

/**
 * The tiles of the level that an area asks for, nearest to its middle first.
 * @param {Visible} visible
 * @param {Pair} lengths
 * @param {Pair} pixels
 * @returns {TilePlace[]}
 */
export function tilesOf(visible, lengths, pixels) {
  return tilesAt(visible, lengths, levelFor(visible.q1 - visible.q0, pixels.q), levelFor(visible.k1 - visible.k0, pixels.k));
}

/**
 * The tiles of a level that a part of the map touches, nearest to its middle first.
 * @param {Visible} visible
 * @param {Pair} lengths
 * @param {number} zq
 * @param {number} zk
 * @returns {TilePlace[]}
 */
export function tilesAt(visible, lengths, zq, zk) {
  const [iFirst, iLast] = viewportTiles(visible.q0, visible.q1, lengths.q, TILE_SIDE * 2 ** zq);
  const [jFirst, jLast] = viewportTiles(visible.k0, visible.k1, lengths.k, TILE_SIDE * 2 ** zk);
  const [iMiddle, jMiddle] = [(iFirst + iLast) / 2, (jFirst + jLast) / 2];
  /** @type {TilePlace[]} */
  const found = [];
  for (let i = iFirst; i <= iLast; i++) for (let j = jFirst; j <= jLast; j++) found.push({ zq, zk, i, j });
  const far = (/** @type {TilePlace} */ tile) => Math.hypot(tile.i - iMiddle, tile.j - jMiddle);
  return found.sort((a, b) => far(a) - far(b));
}

/**
 * @param {number} from
 * @param {number} to
 * @param {number} length
 * @param {number} size tokens of a tile
 * @returns {[number, number]} the first and the last
 */
function viewportTiles(from, to, length, size) {
  const last = Math.ceil(Math.min(to, length) / size) - 1;
  return [Math.max(0, Math.floor(from / size)), last];
}

/**
 * Whole tokens of a visible range within a length, for a slice.
 * @param {number} from
 * @param {number} to
 * @param {number} length
 * @returns {[number, number]}
 */
export function wholeTokens(from, to, length) {
  return [Math.max(0, Math.floor(from + 1e-6)), Math.min(length, Math.ceil(to - 1e-6))];
}

/**
 * A range as the address has it: to a small part of a pixel, whatever the screen.
 * @param {number} from
 * @param {number} to
 * @returns {string}
 */
export function rangeText(from, to) {
  const digits = Math.max(0, Math.min(6, Math.ceil(Math.log10(40000 / (to - from)))));
  const text = (/** @type {number} */ x) => String(Number(x.toFixed(digits)));
  return `${text(from)}:${text(to)}`;
}

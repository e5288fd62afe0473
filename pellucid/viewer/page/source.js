// The map of one place (record, layer, heads, sequence) out of its tiles: what to ask for, what to draw, what is known.

import { extremesIn, ownerOf } from "./tiles.js";
import { levelFor, TILE_SIDE, tilesAt, tilesOf } from "./viewport.js";

/**
 * @typedef {import("./viewport.js").Visible} Visible
 * @typedef {import("./viewport.js").Pair} Pair
 * @typedef {import("./tiles.js").Tile} Tile
 * @typedef {import("./tiles.js").Wish} Wish
 * @typedef {{log: number, q0: number, q1: number, k0: number, k1: number}} Cell one bin: rows and keys from … up to …
 * @typedef {{bins: Pair, ready: number, total: number, building: number, refused: string, lost: boolean, coarse: Tile | null}} Known
 *   bins: tokens of a bin that is wanted; building: the fraction of what the server still makes, NaN: nothing;
 *   coarse: the overview, where nothing finer can be had
 */

/** What a place's tiles show. */
export class TileSource {
  /**
   * @param {import("./tiles.js").TileStore} store
   * @param {import("./app.js").Chosen} chosen
   * @param {boolean} [probes] whether levels may be held of a map that is not exact: of a saved page, which does not hold all
   */
  constructor(store, chosen, probes = false) {
    this.store = store;
    this.probes = probes && !chosen.layer.exact;
    this.chosen = chosen;
    this.lengths = { q: chosen.layer.q_len, k: chosen.layer.k_len };
    this.owner = ownerOf(chosen.place);
    this.coarseKey = `${this.owner} overview`;
  }

  /** Whether finer than the overview can be had. */
  get refines() {
    return this.chosen.layer.exact;
  }

  /**
   * What is needed to show a part, the coarse first.
   * @param {Visible} visible
   * @param {Pair} pixels
   * @returns {Wish[]}
   */
  wishes(visible, pixels) {
    const { place, layer } = this.chosen;
    if (!layer.map || !this.lengths.q || !this.lengths.k) return [];
    const wish = { place, lengths: this.lengths };
    const tiles = this.wanted(visible, pixels);
    const small = this.refines && Math.max(this.lengths.q, this.lengths.k) <= TILE_SIDE;
    /** @type {Wish[]} */
    const coarse = small ? [] : [{ ...wish, key: this.coarseKey, tile: null }];
    return [...coarse, ...tiles.map((tile) => ({ ...wish, key: this.keyOf(tile), tile }))];
  }

  /**
   * The tiles to ask for; of a map that is held in part, those of the finest level of which any may be held.
   * @param {Visible} visible
   * @param {Pair} pixels
   * @returns {import("./viewport.js").TilePlace[]}
   */
  wanted(visible, pixels) {
    if (this.refines) return tilesOf(visible, this.lengths, pixels);
    if (!this.probes) return [];
    const { q, k } = this.bins(visible, pixels);
    const coarsest = levelFor(Math.max(this.lengths.q, this.lengths.k), TILE_SIDE);
    for (let level = Math.log2(Math.max(q, k)); level <= coarsest; level++) {
      const tiles = tilesAt(visible, this.lengths, level, level);
      if (tiles.some((tile) => !this.store.refused.has(this.keyOf(tile)))) return tiles;
    }
    return [];
  }

  /** @param {import("./viewport.js").TilePlace} tile */
  keyOf({ zq, zk, i, j }) {
    return `${this.owner} ${zq} ${zk} ${i} ${j}`;
  }

  /**
   * What there is to draw, the coarser first: only tiles of the level where all have come.
   * @param {Visible} visible
   * @param {Pair} pixels
   * @returns {Tile[]}
   */
  grids(visible, pixels) {
    const wanted = this.wanted(visible, pixels);
    /** @type {Tile[]} */
    const found = [];
    for (const place of wanted) {
      const tile = this.store.tile(this.keyOf(place));
      if (tile) found.push(tile);
    }
    if (wanted.length && found.length === wanted.length) return found;
    const bins = this.bins(visible, pixels);
    const others = [...this.store.tiles.values()].filter((tile) => this.standsIn(tile, visible, bins) && !found.includes(tile));
    return [...others.sort((a, b) => b.qBin * b.kBin - a.qBin * a.kBin), ...found];
  }

  /**
   * Whether a tile may be shown until a better one comes: coarser, or finer by no more than a level.
   * @param {Tile} tile
   * @param {Visible} visible
   * @param {Pair} bins
   */
  standsIn(tile, visible, bins) {
    const { extent } = tile;
    if (tile.owner !== this.owner || tile.qBin < bins.q / 2 || tile.kBin < bins.k / 2) return false;
    return extent.q0 < visible.q1 && extent.q1 > visible.q0 && extent.k0 < visible.k1 && extent.k1 > visible.k0;
  }

  /** @param {Visible} visible @param {Pair} pixels @returns {Pair} */
  bins(visible, pixels) {
    return { q: 2 ** levelFor(visible.q1 - visible.q0, pixels.q), k: 2 ** levelFor(visible.k1 - visible.k0, pixels.k) };
  }

  /**
   * The bin drawn at a place; null where nothing is.
   * @param {number} q
   * @param {number} k
   * @param {Visible} visible
   * @param {Pair} pixels
   * @returns {Cell | null}
   */
  at(q, k, visible, pixels) {
    if (!(q >= 0 && k >= 0 && q < this.lengths.q && k < this.lengths.k)) return null;
    return cellAmong(this.grids(visible, pixels), q, k);
  }

  /**
   * The least logarithm above -inf and the largest of what is visible.
   * @param {Visible} visible
   * @param {Pair} pixels
   * @returns {[number, number]}
   */
  extremes(visible, pixels) {
    let [low, high] = [Infinity, -Infinity];
    for (const tile of this.grids(visible, pixels)) {
      const [least, most] = extremesIn(tile, visible);
      low = Math.min(low, least);
      high = Math.max(high, most);
    }
    return [low, high];
  }

  /**
   * @param {Visible} visible
   * @param {Pair} pixels
   * @returns {Known}
   */
  known(visible, pixels) {
    const { store } = this;
    const all = this.wishes(visible, pixels);
    const tiles = all.filter((wish) => wish.tile && !(this.probes && store.refused.has(wish.key)));
    const wishes = tiles.length ? tiles : all.filter((wish) => !wish.tile);
    const ready = wishes.filter((wish) => store.tiles.has(wish.key)).length;
    const waits = wishes.flatMap((wish) => store.waiting.get(wish.key) ?? []);
    const fractions = waits.map((wait) => wait.fraction).filter((fraction) => !Number.isNaN(fraction));
    const refused = wishes.map((wish) => store.refused.get(wish.key)).find((message) => message !== undefined) ?? "";
    const coarse = store.tiles.get(this.coarseKey) ?? null;
    const [first] = tiles;
    const whole = coarse || (tiles.length && ready === tiles.length) ? "" : (store.refused.get(this.coarseKey) ?? ""); // needed only until the tiles are here
    return {
      bins: first?.tile ? { q: 2 ** first.tile.zq, k: 2 ** first.tile.zk } : this.bins(visible, pixels),
      ready,
      total: wishes.length,
      building: fractions.length ? Math.min(...fractions) : NaN,
      refused: refused || whole,
      lost: waits.some((wait) => Number.isNaN(wait.fraction)),
      coarse: tiles.length ? null : coarse,
    };
  }
}

/**
 * @param {Tile} tile
 * @param {number} row
 * @param {number} column
 * @returns {Cell}
 */
export function cellOf(tile, row, column) {
  return {
    log: tile.logs[row * tile.columns + column],
    q0: Math.floor(tile.q0 + row * tile.qBin + 1e-6),
    q1: Math.min(Math.ceil(tile.q0 + (row + 1) * tile.qBin - 1e-6), tile.extent.q1),
    k0: Math.floor(tile.k0 + column * tile.kBin + 1e-6),
    k1: Math.min(Math.ceil(tile.k0 + (column + 1) * tile.kBin - 1e-6), tile.extent.k1),
  };
}

/**
 * The bin of the finest tile that holds a place.
 * @param {Tile[]} tiles the coarser first
 * @param {number} q
 * @param {number} k
 * @returns {Cell | null}
 */
export function cellAmong(tiles, q, k) {
  for (let number = tiles.length - 1; number >= 0; number--) {
    const tile = tiles[number];
    const row = Math.floor((q - tile.q0) / tile.qBin + 1e-9);
    const column = Math.floor((k - tile.k0) / tile.kBin + 1e-9);
    if (row >= 0 && column >= 0 && row < tile.rows && column < tile.columns) return cellOf(tile, row, column);
  }
  return null;
}

/**
 * The strongest bin of what is visible; null where nothing has come.
 * @param {Tile[]} tiles
 * @param {Visible} visible
 * @returns {Cell | null}
 */
export function strongestOf(tiles, visible) {
  let best = -Infinity;
  /** @type {Cell | null} */
  let found = null;
  for (const tile of tiles) {
    const [row0, row1] = sourceBins(visible.q0, visible.q1, tile.q0, tile.qBin, tile.rows);
    const [column0, column1] = sourceBins(visible.k0, visible.k1, tile.k0, tile.kBin, tile.columns);
    for (let row = row0; row < row1; row++) {
      for (let column = column0; column < column1; column++) {
        const log = tile.logs[row * tile.columns + column];
        if (!(log > best)) continue;
        best = log;
        found = cellOf(tile, row, column);
      }
    }
  }
  return found;
}

/**
 * @param {number} from
 * @param {number} to
 * @param {number} start
 * @param {number} bin
 * @param {number} count
 * @returns {[number, number]}
 */
function sourceBins(from, to, start, bin, count) {
  return [Math.max(0, Math.floor((from - start) / bin)), Math.min(count, Math.ceil((to - start) / bin))];
}

/**
 * What is drawn at every pixel of a part, top to bottom; NaN where nothing is.
 * @param {import("./raster.js").Grid[]} grids the coarser first
 * @param {Visible} visible
 * @param {number} height
 * @param {number} width
 * @returns {Float32Array}
 */
export function sampled(grids, visible, height, width) {
  const found = new Float32Array(height * width).fill(NaN);
  const down = (visible.q1 - visible.q0) / height;
  const right = (visible.k1 - visible.k0) / width;
  const columns = new Int32Array(width);
  for (const grid of grids) {
    for (let x = 0; x < width; x++) columns[x] = Math.floor((visible.k0 + (x + 0.5) * right - grid.k0) / grid.kBin);
    for (let y = 0; y < height; y++) {
      const row = Math.floor((visible.q0 + (y + 0.5) * down - grid.q0) / grid.qBin);
      if (row < 0 || row >= grid.rows) continue;
      const start = row * grid.columns;
      for (let x = 0; x < width; x++) {
        const column = columns[x];
        if (column >= 0 && column < grid.columns) found[y * width + x] = grid.logs[start + column];
      }
    }
  }
  return found;
}

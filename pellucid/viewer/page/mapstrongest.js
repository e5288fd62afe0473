// The strongest pair of what is visible, also where a pixel is thousands of pairs.

import { Building } from "./client.js";
import { isPair } from "./words.js";
import { strongestOf } from "./source.js";
import { tileFrom } from "./tiles.js";

/**
 * From the strongest bin on screen down to the strongest pair in it, a tile of maxima at each step.
 * @param {import("./source.js").TileSource} source
 * @param {import("./source.js").Cell} cell
 * @returns {Promise<import("./source.js").Cell>}
 */
export async function strongestPair(source, cell) {
  const place = { ...source.chosen.place, pool: "max" };
  let found = cell;
  while (!isPair(found) && source.refines) {
    const [zq, zk] = [found.q1 - found.q0, found.k1 - found.k0].map((span) => Math.max(0, Math.ceil(Math.log2(span)) - 8));
    const tile = { zq, zk, i: Math.floor(found.q0 / (256 * 2 ** zq)), j: Math.floor(found.k0 / (256 * 2 ** zk)) };
    const answer = await source.store.client.tile({ ...place, ...tile, dtype: "f32" });
    if (answer instanceof Building) {
      await new Promise((resolve) => setTimeout(resolve, 400));
      continue;
    }
    const made = tileFrom({ key: "", place, lengths: source.lengths, tile }, answer);
    const next = strongestOf([made], found);
    if (!next || (next.q1 - next.q0 >= found.q1 - found.q0 && next.k1 - next.k0 >= found.k1 - found.k0)) return found;
    found = next;
  }
  return found;
}

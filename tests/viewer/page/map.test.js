// The map's own arithmetic: what is visible, which tiles show it, what its words say. By property where there is one.

import assert from "node:assert/strict";
import { test } from "node:test";

import { roundStep } from "../../../pellucid/viewer/page/axes.js";
import { Camera } from "../../../pellucid/viewer/page/camera.js";
import { barTicks } from "../../../pellucid/viewer/page/bar.js";
import { differenceOf, placeInProportion } from "../../../pellucid/viewer/page/difference.js";
import { placesNamed } from "../../../pellucid/viewer/page/goto.js";
import { cellAmong, sampled, strongestOf, TileSource } from "../../../pellucid/viewer/page/source.js";
import { byPixel, stripRange, stripWords } from "../../../pellucid/viewer/page/strips.js";
import { extremesIn, tileFrom, TileStore } from "../../../pellucid/viewer/page/tiles.js";
import { levelFor, tilesOf, wholeMap, withinMap, zoomedAbout } from "../../../pellucid/viewer/page/viewport.js";
import { cellWeight, ordinal, pythonOf } from "../../../pellucid/viewer/page/words.js";
import { Building, Refusal } from "../../../pellucid/viewer/page/client.js";

/** Numbers that are the same in every run. */
function seeded(seed) {
  let state = seed;
  return () => {
    state = (state * 1664525 + 1013904223) % 2 ** 32;
    return state / 2 ** 32;
  };
}

const PLACE = { record: "r", layer: 0, heads: "0", over: "mean", pool: "mean", sequence: 0 };

/** A layer whose weight of query q on key k is 1 / (1 + q + k), and what it answers. */
function layerOf(q_len, k_len) {
  const layer = { number: 0, name: "a", role: "self", q_len, k_len, exact: true, map: true, heads: 2, head_numbers: [0, 1], batch: 1 };
  return { record: { id: "r", python: "record" }, layer, heads: [0], sequence: 0, place: PLACE };
}

function answerOf({ zq, zk, i, j }, { q, k }) {
  const [rows, columns] = [[q, i, zq], [k, j, zk]].map(([length, at, z]) => Math.min(256, Math.ceil((length - at * 256 * 2 ** z) / 2 ** z)));
  const values = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) values[row * columns + column] = -Math.log(1 + (i * 256 + row) * 2 ** zq + (j * 256 + column) * 2 ** zk);
  }
  return { values, shape: [rows, columns], exact: zq + zk === 0 };
}

test("the level is the finest whose bins are a pixel apart", () => {
  const random = seeded(1);
  for (let trial = 0; trial < 500; trial++) {
    const span = 1 + random() * 200000;
    const pixels = 1 + Math.floor(random() * 3000);
    const bin = 2 ** levelFor(span, pixels);
    const apart = (bin * pixels) / span;
    assert.ok(apart >= 1 - 1e-6, `${span} ${pixels}`);
    assert.ok(bin === 1 || apart / 2 < 1, `${span} ${pixels}`);
  }
});

test("the tiles of a view cover what is visible of the map, and no tile is beyond it", () => {
  const random = seeded(2);
  for (let trial = 0; trial < 300; trial++) {
    const lengths = { q: 1 + Math.floor(random() * 5000), k: 1 + Math.floor(random() * 5000) };
    const pixels = { q: 50 + random() * 900, k: 50 + random() * 900 };
    const whole = wholeMap(lengths, pixels, random() < 0.5);
    const visible = withinMap(zoomedAbout(whole, { q: 1 + random() * 20, k: 1 + random() * 20 }, { q: random() * lengths.q, k: random() * lengths.k }), lengths, pixels, false);
    const tiles = tilesOf(visible, lengths, pixels);
    assert.equal(new Set(tiles.map((tile) => JSON.stringify(tile))).size, tiles.length);
    for (let point = 0; point < 20; point++) {
      const q = Math.min(visible.q0 + random() * (visible.q1 - visible.q0), lengths.q - 1e-9);
      const k = Math.min(visible.k0 + random() * (visible.k1 - visible.k0), lengths.k - 1e-9);
      const holds = ({ zq, zk, i, j }) => Math.floor(q / (256 * 2 ** zq)) === i && Math.floor(k / (256 * 2 ** zk)) === j;
      assert.equal(tiles.filter(holds).length, 1);
    }
    for (const { zq, zk, i, j } of tiles) assert.ok(i >= 0 && j >= 0 && i * 256 * 2 ** zq < lengths.q && j * 256 * 2 ** zk < lengths.k);
  }
});

test("zooming keeps the point under the pointer, and withinMap is its own end", () => {
  const random = seeded(3);
  for (let trial = 0; trial < 300; trial++) {
    const visible = { q0: 10, q1: 110, k0: 50, k1: 90 };
    const at = { q: 10 + random() * 100, k: 50 + random() * 40 };
    const factor = { q: 0.5 + random() * 3, k: 0.5 + random() * 3 };
    const zoomed = zoomedAbout(visible, factor, at);
    const part = (point, from, to) => (point - from) / (to - from);
    assert.ok(Math.abs(part(at.q, zoomed.q0, zoomed.q1) - part(at.q, 10, 110)) < 1e-9);
    assert.ok(Math.abs(zoomed.k1 - zoomed.k0 - 40 / factor.k) < 1e-9);
    const [lengths, pixels] = [{ q: 1000, k: 300 }, { q: 600, k: 800 }];
    const once = withinMap(zoomed, lengths, pixels, true);
    const twice = withinMap(once, lengths, pixels, true);
    for (const name of ["q0", "q1", "k0", "k1"]) assert.ok(Math.abs(once[name] - twice[name]) < 1e-6);
    assert.ok(Math.abs((once.q1 - once.q0) / pixels.q - (once.k1 - once.k0) / pixels.k) < 1e-9, "cells are square");
  }
});

test("what the camera writes into the address is what it reads from it", () => {
  const random = seeded(4);
  for (let trial = 0; trial < 100; trial++) {
    const lengths = { q: 200 + Math.floor(random() * 800), k: 200 + Math.floor(random() * 800) };
    const [first, second] = [new Camera(), new Camera()];
    for (const camera of [first, second]) camera.place({ q: 500, k: 700 });
    first.read({}, lengths);
    first.zoom(random() < 0.5 ? { q: 4, k: 4 } : { q: 1, k: 6 }, { q: random() * lengths.q, k: random() * lengths.k });
    const patch = first.patch({});
    const state = Object.fromEntries(Object.entries(patch).filter(([, value]) => value !== null));
    assert.ok(first.agrees(state), "its own writing is not read again");
    second.read(state, lengths);
    assert.equal(second.square, first.square);
    for (const name of ["q0", "q1", "k0", "k1"]) assert.ok(Math.abs(second.visible[name] - first.visible[name]) < 1.01, `${name} ${JSON.stringify(state)}`);
  }
});

test("a range of one axis alone is shown whole on the other, and not squared", () => {
  const camera = new Camera();
  camera.place({ q: 500, k: 700 });
  camera.read({ q: "5:9" }, { q: 100, k: 100 });
  assert.deepEqual(camera.visible, { q0: 5, q1: 9, k0: 0, k1: 100 });
});

test("tiles: eight at once, the coarse first, what is out of sight is aborted, building is asked again", async () => {
  globalThis.window = globalThis;
  const asked = [];
  const client = {
    overview: (place, signal) => new Promise((resolve, reject) => asked.push({ name: "overview", resolve, reject, signal })),
    tile: (query, signal) => new Promise((resolve, reject) => asked.push({ name: `${query.i} ${query.j}`, query, resolve, reject, signal })),
  };
  const store = new TileStore(client, () => {});
  const source = new TileSource(store, layerOf(4000, 4000));
  const [visible, pixels] = [{ q0: 0, q1: 1000, k0: 0, k1: 1000 }, { q: 1000, k: 1000 }];
  store.want(source.wishes(visible, pixels));
  assert.equal(asked.length, 8);
  assert.equal(asked[0].name, "overview");
  asked[1].resolve(new Building(0.25));
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(source.known(visible, pixels).building, 0.25);
  asked[2].resolve(answerOf(asked[2].query, source.lengths));
  asked[3].reject(new Refusal("not that one", 400));
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(source.known(visible, pixels).ready, 1);
  assert.equal(source.known(visible, pixels).refused, "not that one");
  assert.equal(store.asked.size, 8);
  await new Promise((resolve) => setTimeout(resolve, 300));
  asked[0].resolve({ values: new Float32Array(4), shape: [2, 2], exact: false });
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.ok(asked.filter((one) => one.name === asked[1].name).length === 2, "what is being built is asked again");
  store.want([]);
  assert.ok(asked.slice(4).every((one) => one.signal.aborted));
  store.destroy();
});

test("a whole map that is refused is no matter where all that is visible has come", async () => {
  /** @type {any[]} */
  const asked = [];
  const client = /** @type {any} */ ({
    overview: () => Promise.reject(new Refusal("no room", 507)),
    tile: (query, signal) => new Promise((resolve, reject) => asked.push({ query, resolve, reject, signal })),
  });
  const store = new TileStore(client, () => {});
  const source = new TileSource(store, layerOf(4000, 4000));
  const [visible, pixels] = [{ q0: 0, q1: 200, k0: 0, k1: 200 }, { q: 1000, k: 1000 }];
  store.want(source.wishes(visible, pixels));
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(source.known(visible, pixels).refused, "no room");
  for (const one of asked) one.resolve(answerOf(one.query, source.lengths));
  await new Promise((resolve) => setTimeout(resolve, 5));
  const known = source.known(visible, pixels);
  assert.equal(known.ready, known.total);
  assert.equal(known.refused, "");
  store.destroy();
});

test("the store drops the least recently used, never more than its budget", async () => {
  globalThis.window = globalThis;
  const client = { tile: async (query) => answerOf(query, { q: 3000, k: 3000 }) };
  const store = new TileStore(client, () => {}, 256 * 256 * 4 * 5);
  const source = new TileSource(store, layerOf(3000, 3000));
  const wish = (i) => ({ key: `k${i}`, place: PLACE, lengths: source.lengths, tile: { zq: 0, zk: 0, i, j: 0 } });
  for (let i = 0; i < 9; i++) {
    store.want([wish(i)]);
    await new Promise((resolve) => setTimeout(resolve, 2));
    store.tile("k0");
  }
  assert.equal(store.tiles.size, 5);
  assert.ok(store.tiles.has("k0") && store.tiles.has("k8") && !store.tiles.has("k2"));
  store.destroy();
});

test("extremes of what is visible are those of the blocks that it touches", () => {
  const random = seeded(5);
  const values = Float32Array.from({ length: 100 * 70 }, () => (random() < 0.1 ? -Infinity : random() < 0.1 ? NaN : -10 * random()));
  const tile = tileFrom({ key: "", place: PLACE, lengths: { q: 100, k: 70 }, tile: { zq: 0, zk: 0, i: 0, j: 0 } }, { values, shape: [100, 70], exact: true });
  const finite = [...values].filter((value) => value > -Infinity);
  const whole = extremesIn(tile, { q0: 0, q1: 100, k0: 0, k1: 70 });
  assert.deepEqual(whole, [Math.min(...finite), Math.max(...finite)].map(Math.fround));
  const [low, high] = extremesIn(tile, { q0: 20, q1: 30, k0: 5, k1: 9 });
  for (let q = 20; q < 30; q++) for (let k = 5; k < 9; k++) if (values[q * 70 + k] > -Infinity) assert.ok(values[q * 70 + k] >= low && values[q * 70 + k] <= high);
});

test("cells, samples and the strongest agree with the values of the tile", () => {
  const lengths = { q: 1000, k: 600 };
  const place = { zq: 1, zk: 2, i: 1, j: 0 };
  const tile = tileFrom({ key: "", place: PLACE, lengths, tile: place }, answerOf(place, lengths));
  const random = seeded(6);
  for (let trial = 0; trial < 200; trial++) {
    const [q, k] = [512 + random() * 487, random() * 599];
    const cell = cellAmong([tile], q, k);
    assert.ok(cell.q0 <= q && q < cell.q1 && cell.k0 <= k && k < cell.k1);
    assert.ok(Math.abs(cell.log + Math.log(1 + cell.q0 + cell.k0)) < 1e-5);
  }
  assert.equal(cellAmong([tile], 3, 3), null);
  const visible = { q0: 600, q1: 700, k0: 100, k1: 300 };
  const strongest = strongestOf([tile], visible);
  assert.deepEqual([strongest.q0, strongest.k0], [600, 100]);
  const samples = sampled([tile], visible, 50, 50);
  for (let y = 0; y < 50; y++) assert.equal(samples[y * 50 + 7], cellAmong([tile], 600 + (y + 0.5) * 2, 100 + 7.5 * 4).log);
});

test("a difference is a - b of what both show, nothing where one is missing", () => {
  const grid = (weight, lengths) => ({ lengths, grids: () => [{ logs: new Float32Array(lengths.q * lengths.k).fill(Math.log(weight)), rows: lengths.q, columns: lengths.k, q0: 0, k0: 0, qBin: 1, kBin: 1 }] });
  const [a, b] = [grid(0.5, { q: 10, k: 10 }), grid(0.125, { q: 20, k: 5 })];
  const found = differenceOf(a, b, { q0: 0, q1: 10, k0: 0, k1: 20 }, { q: 100, k: 200 });
  assert.deepEqual([found.rows, found.columns], [100, 100], "only what a has");
  assert.ok(found.logs.every((value) => Math.abs(value - 0.375) < 1e-6));
  assert.ok(Math.abs(found.largest - 0.375) < 1e-6);
  const empty = { lengths: b.lengths, grids: () => [] };
  assert.ok(differenceOf(a, empty, { q0: 0, q1: 10, k0: 0, k1: 10 }, { q: 10, k: 10 }).logs.every(Number.isNaN));
});

test("positions in proportion stay on the axis and keep their order", () => {
  const random = seeded(7);
  for (let trial = 0; trial < 200; trial++) {
    const [from, to] = [1 + Math.floor(random() * 90), 1 + Math.floor(random() * 90)];
    const places = [...Array(from).keys()].map((place) => placeInProportion(place, from, to));
    assert.ok(places.every((place, at) => place >= 0 && place < to && (at === 0 || place >= places[at - 1])));
    if (from === to) assert.deepEqual(places, [...Array(from).keys()]);
  }
});

test("pixels of a strip hold every finite value of their stretch, and gaps stay gaps", () => {
  const values = Float32Array.from([1, 2, NaN, Infinity, 5, 6]);
  const { mean, most } = byPixel(values, 0, 6, 3);
  assert.deepEqual([...mean], [1.5, NaN, 5.5]);
  assert.deepEqual([...most], [2, NaN, 6]);
  assert.deepEqual([...byPixel(values, 4, 6, 4).mean], [5, 5, 6, 6]);
});

test("a strip goes from 0 to the largest of what is in sight", () => {
  const values = Float32Array.from([90, 1, NaN, 3, 2, -1]);
  assert.deepEqual(stripRange(values, 0, 5), { low: 0, high: 90 });
  assert.deepEqual(stripRange(values, 1, 5), { low: 0, high: 3 });
  assert.deepEqual(stripRange(values, 1.5, 2.5), { low: 0, high: 1 });
  assert.deepEqual(stripRange(values, 3.2, 60), { low: -1, high: 3 });
  assert.deepEqual(stripRange(values, -9, -2), { low: 0, high: 1 });
  const strip = { info: { name: "beyond_first", axis: "queries", unit: "tokens", title: "" }, values, refused: null };
  assert.deepEqual([0, 2, 7, NaN].map((place) => stripWords(strip, place)), ["beyond first 90 tokens", "", "", ""]);
});

test("steps of ticks are 1, 2 or 5 times a power of ten, the least that is enough", () => {
  const random = seeded(8);
  for (let trial = 0; trial < 200; trial++) {
    const least = random() * 10 ** (1 + random() * 5);
    const step = roundStep(least);
    assert.ok(step >= least * (1 - 1e-6) && /^[125]0*$/.test(String(step)));
    assert.ok(step === 1 || step / 2.5 < least * 1.001);
  }
});

test("a bar's ticks are on it, its ends first", () => {
  for (const kind of ["log", "sqrt", "linear"]) {
    for (const [low, high] of [[1e-5, 1], [0.02, 0.03], [1e-7, 2e-7], [kind === "log" ? 1e-3 : 0, 0.5]]) {
      const ticks = barTicks({ kind, low, high });
      assert.deepEqual([ticks[0].at, ticks[1].at], [0, 1]);
      assert.ok(ticks.every(({ at, text }) => at >= 0 && at <= 1 && text.length > 0));
    }
  }
});

test("going to a token: its number first, then wherever its text stands", () => {
  const text = { texts: ["x", "the", " cat", " 2", " the"], offset: 1, special: new Set(), place: () => null };
  assert.deepEqual(placesNamed({ text, length: 4 }, "2"), [[1, 1], [2, 2]]);
  assert.deepEqual(placesNamed({ text, length: 4 }, "THE"), [[0, 0], [3, 3]]);
  assert.deepEqual(placesNamed({ text, length: 4 }, "0"), [], "before the axis begins");
  assert.deepEqual(placesNamed({ text: { ...text, texts: null }, length: 4 }, "the"), []);
});

test("words: rank, padding, pooled cells, the line of Python", () => {
  const cell = { log: Math.log(0.25), q0: 3, q1: 4, k0: 1, k1: 2 };
  const row = Float32Array.from([0.5, 0.25, 0.25, 0].map(Math.log));
  assert.equal(cellWeight(cell, "mean", row), "weight 0.25, 2nd of the 3 keys that it reads");
  assert.equal(cellWeight({ ...cell, log: NaN }, "mean", null), "no weight: padding");
  assert.equal(cellWeight({ ...cell, q1: 7 }, "max", null), "0.25, the largest of 4 × 1 pairs");
  assert.deepEqual([1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(ordinal), ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"]);
  const line = pythonOf(layerOf(10, 10), [2, 5], [0, 10]);
  assert.equal(line, 'record["a"].weights(queries=slice(2, 5), keys=slice(0, 10), heads=[0])[0, 0]');
});

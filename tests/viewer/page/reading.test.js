// Weights of tokens: means, ranks, the strongest, lines between texts, steps of a generation, places of pictures and sound.

import assert from "node:assert/strict";
import { test } from "node:test";
import { meanLogs, rankOf, strongest } from "../../../pellucid/viewer/page/attending.js";
import { axisTexts, placeName } from "../../../pellucid/viewer/page/axistexts.js";
import { placeLabel, secondsOf } from "../../../pellucid/viewer/page/frames.js";
import { brightness, inkOf, inkOn } from "../../../pellucid/viewer/page/ink.js";
import { linksOf } from "../../../pellucid/viewer/page/links.js";
import { callsOf, stepRows } from "../../../pellucid/viewer/page/steps.js";

const logs = (...weights) => Float32Array.from(weights, Math.log);

test("the mean of rows leaves out padding, and is not known where one is not", () => {
  const padding = new Float32Array(3).fill(NaN);
  const mean = meanLogs([logs(0.5, 0.5, 0), padding, logs(0.25, 0.25, 0.5)]);
  assert.deepEqual([...mean].map((log) => Math.exp(log).toFixed(4)), ["0.3750", "0.3750", "0.2500"]);
  assert.ok([...meanLogs([padding, padding])].every(Number.isNaN));
  assert.ok(Number.isNaN(meanLogs([logs(0.5, NaN), logs(0.5, 0.5)])[1]));
});

test("the strongest are those of a full sort, without zeros and what is not known", () => {
  for (let seed = 1; seed < 30; seed++) {
    const weights = Array.from({ length: 50 }, (_, i) => ((i * seed * 7919) % 101) / 100);
    const row = logs(...weights, NaN, 0);
    const found = strongest(row, 12);
    const sorted = weights.filter((weight) => weight > 0).sort((a, b) => b - a).slice(0, 12);
    assert.deepEqual(found.map((place) => weights[place]), sorted);
    for (const place of found) assert.equal(rankOf(row, place).of, [...row].filter((log) => log > -Infinity).length);
    for (const place of found) assert.equal(rankOf(row, place).rank, 1 + weights.filter((weight) => Math.fround(Math.log(weight)) > row[place]).length);
  }
});

test("links are those in sight from a weight on, the strongest where they are too many", () => {
  const window = { logs: logs(0.1, 0.9, 0, 0.4, NaN, 0.6), queries: [4, 6], keys: [10, 13] };
  const all = linksOf(window, [0, 9], [0, 99], 0.1, 10);
  assert.deepEqual(all.links.map(({ query, key }) => [query, key]), [[4, 10], [5, 10], [5, 12], [4, 11]]);
  assert.equal(linksOf(window, [5, 6], [12, 13], 0.1, 10).count, 1);
  const few = linksOf(window, [0, 9], [0, 99], 0.1, 1);
  assert.deepEqual([few.count, few.links[0].key], [4, 11]);
});

const layer = { number: 2, q_len: 6, k_len: 9, start: 3, query_offset: 3, calls: [0, 4, 5], tokens: { queries: "own", keys: "own" } };

test("steps begin with the row that the first new token came of", () => {
  assert.deepEqual(stepRows([0, 4, 5], 6), [3, 4, 5]);
  assert.deepEqual(stepRows([0], 6), []);
  const joined = { ...layer, calls: [0] };
  assert.deepEqual(callsOf({ layers: [joined, layer] }, joined), [0, 4, 5]);
  assert.deepEqual(callsOf({ layers: [joined, { ...layer, q_len: 5 }] }, joined), [0]);
});

test("places of an axis are counted from the first query", () => {
  const image = { index: 0, name: "", sequence: 0, axes: { 2: "both" }, positions: [4, 5, 7, 8], rows: 2, columns: 2, has_picture: false, height: 0, width: 0 };
  const sound = { sequence: null, axes: { 2: "keys" }, start: 1, stop: 3, seconds: 0.02, offset: 1 };
  const record = { images: [image], frames: [sound] };
  assert.equal(placeLabel(record, layer, "keys", 7), "patch 1,0");
  assert.equal(placeLabel(record, layer, "queries", 4), "patch 1,0");
  assert.equal(placeLabel(record, layer, "keys", 6), null);
  assert.equal(secondsOf(record, layer, "keys", 2), 1.02);
  assert.equal(secondsOf(record, layer, "keys", 3), null);
  assert.equal(secondsOf(record, layer, "queries", 0), null);
  assert.equal(placeLabel(record, { ...layer, number: 1 }, "keys", 7), null);
});

test("an axis has tokens where they are known, and positions where not", () => {
  const chosen = { record: { images: [], frames: [] }, layer, sequence: 0 };
  const axis = axisTexts(chosen, { own: ["a", "b", "c", "d", "[SEP]"], source: null, own_special: [4], source_special: [] }, "queries");
  assert.deepEqual(axis.texts, ["d", "[SEP]", "5", "6", "7", "8"]);
  assert.deepEqual([[...axis.special], [...axis.named]], [[1], [2, 3, 4, 5]]);
  assert.deepEqual([placeName(axis, 0), placeName(axis, 2)], ["‘d’ (3)", "position 5"]);
});

test("words are legible on every colour, and stronger ones stand out from the page", () => {
  for (const name of ["viridis", "cividis", "magma", "greys"]) {
    for (const dark of [false, true]) {
      const ink = inkOf(name, dark);
      const light = ink.back.map((colour) => brightness(colour.match(/\d+/g).map(Number)));
      light.forEach((back, i) => {
        const word = ink.ink[i] === "#000" ? 0 : 1;
        assert.ok((Math.max(back, word) + 0.05) / (Math.min(back, word) + 0.05) >= 4.5);
        if (i) assert.ok(dark ? back >= light[i - 1] - 0.012 : back <= light[i - 1] + 0.012, `${name} ${dark} ${i}`);
      });
    }
  }
  assert.equal(inkOn([255, 255, 255]), "#000");
});

import assert from "node:assert/strict";
import test from "node:test";

import { countsOf, headsChoice, headsOf, isWanted, kindOf, numberNames, numberOf, shownNumber, sortedHeads } from "../../../pellucid/viewer/page/headmodel.js";
import { tableText } from "../../../pellucid/viewer/page/headtable.js";
import { strongestPairs } from "../../../pellucid/viewer/page/headcard.js";
import { plotOf } from "../../../pellucid/viewer/page/scatter.js";
import { axisEnds, plotTicks, roundTicks } from "../../../pellucid/viewer/page/scatterplot.js";
import { pictureName } from "../../../pellucid/viewer/page/picturename.js";

const layer = (number, role, heads) => ({ number, name: `layer\t${number}`, role, heads, head_numbers: [...Array(heads).keys()].map((place) => place * 2), q_len: 5, k_len: 5, map: true });
const record = { id: "r", layers: [layer(0, "self", 2), layer(1, "cross", 2)] };
const numbers = {
  layer: [1, 1, 0, 0],
  head: [0, 1, 0, 1],
  kind: ["sink", "mixed", "sink", "local"],
  because: ["a", "b", "c", "d"],
  kind_without_sink: ["local", "mixed", "induction", "local"],
  because_without_sink: ["A", "B", "C", "D"],
  numbers: { entropy: [1, 2, null, 2], entropy_without_sink: [4, 3, 2, 3], first_mass: [0.1, 0.2, 0.3, 0.4], previous: [null, null, null, null], previous_without_sink: [null, null, null, null] },
  paired: ["entropy", "previous"],
  titles: { first_mass: "mean weight on the first key", entropy: "entropy, nats", previous: "weight on the token before" },
};
const heads = headsOf(record, numbers);
const ids = (list) => list.map((head) => head.id);

test("every head of a record is there, with its own row of the numbers", () => {
  assert.deepEqual(ids(heads), ["0.0", "0.1", "1.0", "1.1"]);
  assert.deepEqual(heads.map((head) => head.at), [2, 3, 0, 1]);
  assert.deepEqual(heads.map((head) => head.number), [0, 2, 0, 2]);
  assert.deepEqual(headsOf(record, null).map((head) => head.at), [-1, -1, -1, -1]);
});

test("numbers and kinds are of the whole, or beyond the sink, as it is chosen", () => {
  assert.equal(numberOf(numbers, heads[0], "entropy", "with"), null);
  assert.equal(numberOf(numbers, heads[0], "entropy", "without"), 2);
  assert.equal(numberOf(numbers, heads[0], "first_mass", "without"), 0.3);
  assert.deepEqual(kindOf(numbers, heads[0], "with"), { kind: "sink", because: "c" });
  assert.deepEqual(kindOf(numbers, heads[0], "without"), { kind: "induction", because: "C" });
  assert.equal(kindOf(null, heads[0], "with").kind, "unknown");
  assert.deepEqual(numberNames(numbers), ["first_mass", "entropy"]);
});

test("sorting is by the number that is shown, those without one last either way, equal ones in their order", () => {
  const by = (sort, sink) => ids(sortedHeads(heads, headsChoice({ sort, sink }, numbers), numbers));
  assert.deepEqual(by("entropy", "with"), ["0.1", "1.1", "1.0", "0.0"]);
  assert.deepEqual(by("-entropy", "with"), ["1.0", "0.1", "1.1", "0.0"]);
  assert.deepEqual(by("entropy", "without"), ["1.0", "0.1", "1.1", "0.0"]);
  assert.deepEqual(by("layer"), ids(heads));
  assert.deepEqual(by("nonsense"), ids(heads));
});

test("kinds and roles take heads out, and nothing else", () => {
  const wanted = (state) => ids(heads.filter((head) => isWanted(head, headsChoice(state, numbers), numbers)));
  assert.deepEqual(wanted({}), ids(heads));
  assert.deepEqual(wanted({ kinds: "local,induction" }), ["0.0", "0.1", "1.0"]);
  assert.deepEqual(wanted({ kinds: "local", sink: "with" }), ["0.1"]);
  assert.deepEqual(wanted({ roles: "cross", kinds: "mixed" }), ["1.1"]);
  assert.deepEqual([...countsOf(heads, (head) => head.layer.role)], [["self", 2], ["cross", 2]]);
});

test("the scatter plots heads that have both numbers and counts the others", () => {
  const plot = plotOf(heads, headsChoice({ x: "entropy", y: "first_mass", size: "none", sink: "with" }, numbers), numbers);
  assert.deepEqual(ids(plot.points), ["0.1", "1.0", "1.1"]);
  assert.equal(plot.left, 1);
  assert.ok(plot.points.every((point) => point.size === null));
});

test("ticks are round and within the ends, and the ends hold every value", () => {
  for (const [low, high, about] of [[0, 1, 5], [-0.03, 0.07, 8], [12, 4000, 3], [1e-9, 2e-9, 4]]) {
    const ticks = roundTicks(low, high, about);
    assert.ok(ticks.length >= 1 && ticks.length <= about + 1, `${low} ${high}: ${ticks}`);
    assert.ok(ticks.every((tick) => tick >= low - 1e-12 && tick <= high + 1e-12));
  }
  for (const values of [[0.1, 0.9], [3], [0], [-2, 5]]) {
    const [low, high] = axisEnds(values);
    assert.ok(values.every((value) => value > low && value < high), `${values}: ${low} ${high}`);
  }
  assert.deepEqual(axisEnds([]), [0, 1]);
});

test("ticks have as many digits as tell them apart", () => {
  for (const [low, high] of [[0.0255, 0.0275], [10.2, 10.6], [99.9, 101.2], [0, 1], [1e-9, 3e-9], [-0.5, 12345], [1234567, 1234570]]) {
    for (const about of [2, 5, 9]) {
      const { ticks, texts } = plotTicks([low, high], about, () => true);
      assert.equal(new Set(texts).size, ticks.length, `${texts}`);
      assert.deepEqual(texts.map(Number), ticks);
    }
  }
});

test("there are as many ticks as fit, and one where two do not", () => {
  assert.ok(plotTicks([0, 10], 8, (texts) => texts.length < 4).ticks.length < 4);
  assert.ok(plotTicks([0, 10], 8, () => false).ticks.length <= 2);
});

test("a saved picture is named by record, place and view, in one way", () => {
  const record = { title: "run 1/_b.attn" };
  const layer = { name: "model.layers.0.self_attn", heads: 4, head_numbers: [0, 1, 2, 3], batch: 2 };
  const place = { record, layer, heads: [3], sequence: 1, place: {} };
  assert.equal(pictureName(record, [place], "map", "png"), "run-1-_b.attn-model.layers.0.self_attn-head-3-sequence-1-map.png");
  assert.equal(pictureName(undefined, [], "heads", "svg"), "record-heads.svg");
  const long = { ...place, layer: { ...layer, name: "x".repeat(500) } };
  const name = pictureName(record, [long, long], "compare", "svg");
  assert.ok(name.length < 200 && name.includes("head-3") && name.endsWith("-compare.svg") && /^[\w.-]+$/.test(name), name);
});

test("the strongest pairs of all are found among those of each query", () => {
  const logs = Float32Array.from([-1, -3, -0.5, NaN, -2, -0.1]);
  const found = strongestPairs({ keys: Int32Array.from([4, 1, 2, -1, 0, 3]), logs, rows: 3, count: 2 }, 2);
  assert.deepEqual(found.map(({ query, key }) => [query, key]), [[2, 3], [1, 2]]);
});

test("a copied table has a line a head and a tab between columns, whatever a name holds", () => {
  const lines = tableText(heads, ["entropy", "first_mass"], headsChoice({}, numbers), numbers).split("\n");
  assert.equal(lines.length, 5);
  assert.ok(lines.every((line) => line.split("\t").length === 8));
  assert.ok(lines[0].endsWith("entropy_without_sink\tfirst_mass"));
});

test("a number takes few digits", () => {
  assert.deepEqual([null, 0, 0.12345, 1.005, 12.34, 123.4, 1e-7, 2e6].map(shownNumber), ["–", "0", "0.123", "1", "12.3", "123", "1.0e-7", "2.0e+6"]);
});

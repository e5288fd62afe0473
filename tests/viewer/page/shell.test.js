import assert from "node:assert/strict";
import test from "node:test";

import { Bookmarks } from "../../../pellucid/viewer/page/bookmarks.js";
import { headBeside, headsAsTyped, headsTyped, placesAsText, plainName, shortModel } from "../../../pellucid/viewer/page/choices.js";
import { KIND_MEANS, KINDS, kindLook } from "../../../pellucid/viewer/page/kinds.js";
import { lessonPatch } from "../../../pellucid/viewer/page/lesson.js";

const layer = { heads: 4, head_numbers: [0, 2, 4, 6] };

test("heads are typed by the model's numbers and kept by their places", () => {
  assert.equal(headsTyped(" all ", layer), "all");
  assert.equal(headsTyped("", layer), "all");
  assert.equal(headsTyped("4", layer), "2");
  assert.equal(headsTyped("6, 0", layer), "0,3");
  assert.equal(headsTyped("2-6", layer), "1,2,3");
  assert.equal(headsTyped("0-6", layer), "all");
  for (const wrong of ["1", "x", "-2", "3.5", "2,x", "7-9"]) assert.equal(headsTyped(wrong, layer), null, wrong);
});

test("what is written for chosen heads is read as the same heads", () => {
  for (const places of [[0], [1, 3], [0, 1, 2, 3]]) assert.equal(headsTyped(headsAsTyped(places, layer), layer), placesAsText(places, layer));
});

test("the head beside goes round the ends", () => {
  assert.equal(headBeside([3], layer, 1), "0");
  assert.equal(headBeside([0], layer, -1), "3");
  assert.equal(headBeside([0, 1], layer, 1), "0");
  assert.equal(headBeside([0, 1, 2, 3], layer, -1), "3");
});

test("names stay on one line, within their length, and turn nothing round", () => {
  assert.equal(plainName("a\nb\u202ec", 60), "a b�c");
  const long = plainName("x".repeat(5000) + "end", 20);
  assert.equal(Array.from(long).length, 20);
  assert.ok(long.endsWith("end"));
  assert.equal(shortModel("BertModel /home/someone/models/mini/model"), "BertModel mini/model");
  assert.equal(shortModel("org/name"), "org/name");
});

test("a step of a lesson shows the same view whether one comes from before or from behind", () => {
  const lesson = { name: "n", title: "t", warning: "w", steps: [{ title: "", text: "", state: { view: "heads", sink: "with" } }, { title: "", text: "", state: { view: "map", layer: "3" } }, { title: "", text: "", state: { sink: "", q: "1:2" } }] };
  const seen = (steps) => {
    const state = { theme: "dark" };
    for (const step of steps) for (const [name, value] of Object.entries(lessonPatch(lesson, step))) value === null ? delete state[name] : (state[name] = value);
    return state;
  };
  assert.deepEqual(seen([0, 1, 2, 1]), seen([1]));
  assert.deepEqual(seen([0, 1]), { theme: "dark", view: "map", sink: "with", layer: "3", step: "1" });
  assert.deepEqual(seen([2]), { theme: "dark", view: "map", layer: "3", q: "1:2", step: "2" });
});

test("bookmarks last in a storage, and without one as long as they are held", () => {
  const held = new Map();
  const storage = { getItem: (key) => held.get(key) ?? null, setItem: (key, value) => held.set(key, value) };
  const first = new Bookmarks("run", storage);
  first.add("one", { view: "map" });
  first.add("two", { view: "text" });
  first.add("one", { view: "heads" });
  first.remove("two");
  assert.deepEqual(new Bookmarks("run", storage).list, [{ name: "one", state: { view: "heads" } }]);
  assert.deepEqual(new Bookmarks("other", storage).list, []);
  held.set("pellucid bookmarks run", '[1, {"name": 2}, {"name": "x", "state": {"a": 1}}]');
  assert.deepEqual(new Bookmarks("run", storage).list, []);
  held.set("pellucid bookmarks run", "{");
  assert.deepEqual(new Bookmarks("run", storage).list, []);
  const full = new Bookmarks("run", { getItem: () => null, setItem: () => { throw new Error("full"); } });
  full.add("kept for now", {});
  assert.equal(full.lasting, false);
  assert.equal(full.list.length, 1);
});

test("every kind has a letter and a colour of its own, and a meaning", () => {
  assert.equal(new Set(KINDS.map((kind) => kindLook(kind).letter)).size, KINDS.length);
  assert.equal(new Set(KINDS.map((kind) => kindLook(kind).colour)).size, KINDS.length);
  assert.deepEqual(Object.keys(KIND_MEANS), KINDS);
});

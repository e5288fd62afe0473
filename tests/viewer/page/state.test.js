import assert from "node:assert/strict";
import test from "node:test";

import { fromAddress, numbersOf, rangeOf, toAddress, ViewState } from "../../../pellucid/viewer/page/state.js";

test("an address restores the state that it was made of", () => {
  const state = { view: "heads", kinds: "previous token,induction", q: "1.5:20", record: "ré & co=1" };
  assert.deepEqual(fromAddress(toAddress(state)), state);
  assert.equal(toAddress({}), "");
});

test("listeners are told what changed, once, and nothing where nothing did", () => {
  const state = new ViewState({ layer: "1", heads: "3" });
  /** @type {string[][]} */
  const told = [];
  const stop = state.subscribe((_, changed) => told.push([...changed].sort()));
  state.set({ layer: "1" });
  state.set({ layer: "2", heads: null, query: undefined });
  stop();
  state.set({ layer: "3" });
  assert.deepEqual(told, [["heads", "layer"]]);
  assert.deepEqual(state.state, { layer: "3" });
});

test("ranges and lists that cannot be read are the whole and the empty list", () => {
  assert.deepEqual(rangeOf("2:7", 9), [2, 7]);
  assert.deepEqual(rangeOf("7:2", 9), [0, 9]);
  assert.deepEqual(rangeOf(undefined, 0), [0, 1]);
  assert.deepEqual(numbersOf("0,x,-1,12"), [0, 12]);
});

// Words over several tokens are found, and the search goes round.

import assert from "node:assert/strict";
import { test } from "node:test";
import { findText, nextFound } from "../../../pellucid/viewer/page/find.js";

test("a word is found wherever its tokens are cut", () => {
  const text = "the induction head, the Induction head";
  for (let cut = 1; cut < text.length - 1; cut++) {
    for (let next = cut + 1; next < text.length; next += 3) {
      const tokens = [text.slice(0, cut), "", text.slice(cut, next), text.slice(next)];
      const found = findText(tokens, "induction");
      assert.equal(found.length, 2);
      for (const [first, last] of found) assert.match(tokens.slice(first, last + 1).join(""), /induction/i);
    }
  }
});

test("tokens that stand apart are found with or without spaces", () => {
  const tokens = ["pe", "##ll", "##uc", "##id", "is", "open"];
  for (const wanted of ["pellucid is", "pellucidis", "LUCID"]) assert.equal(findText(tokens, wanted, true).length, 1, wanted);
  assert.deepEqual(findText(tokens, "pellucid is", true), [[0, 4]]);
});

test("letters that grow when they are made small keep their token", () => {
  assert.deepEqual(findText(["İİİ", "x"], "x"), [[1, 1]]);
});

test("nothing is found of nothing", () => {
  assert.deepEqual(findText(["a"], ""), []);
  assert.deepEqual(findText([], "a"), []);
  assert.equal(nextFound([], 0, 1), -1);
});

test("the next place is after the cursor, and after the last the first", () => {
  const found = /** @type {[number, number][]} */ ([[2, 2], [5, 6]]);
  assert.deepEqual([0, 2, 5].map((token) => nextFound(found, token, 1)), [0, 1, 0]);
  assert.deepEqual([6, 5, 2].map((token) => nextFound(found, token, -1)), [1, 0, 1]);
});

// Whatever a token holds is seen, and stays what it is.

import assert from "node:assert/strict";
import { test } from "node:test";
import { colourTable } from "../../../pellucid/viewer/page/colour.js";
import { namedAt, shownToken } from "../../../pellucid/viewer/page/tokens.js";

test("emoji that are joined stay one sign", () => {
  for (const emoji of ["👩\u200d🔬", "👩🏽\u200d🚀", "🏳\ufe0f\u200d🌈", "👨\u200d👩\u200d👧"]) assert.equal(shownToken(emoji), emoji);
});

test("a joiner that would hide is shown", () => {
  for (const [token, shown] of [["\u200d", "�"], ["a\u200db", "a�b"], ["👩\u200d", "👩�"], ["\u200d👩", "�👩"], ["\u202eab", "�ab"], ["\ud83d", "�"]]) assert.equal(shownToken(token), shown);
});

test("a map of colours that nobody knows is the usual one", () => {
  for (const name of ["constructor", "__proto__", "", "none"]) assert.deepEqual(colourTable(name), colourTable("viridis"));
});

test("a place is named by what stands there, before a token that stands for all of it", () => {
  const axis = { texts: ["<s>", "<image>", "<image>"], offset: 1, place: (index) => (index < 2 ? `patch 0,${index}` : null) };
  assert.equal(namedAt(axis, 1), "patch 0,1");
  assert.equal(namedAt({ texts: axis.texts, offset: 0 }, 0), "<s>");
  assert.equal(namedAt({ ...axis, texts: null }, 2), "3");
});

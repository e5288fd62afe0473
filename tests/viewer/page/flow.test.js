// Lines of a text: nothing lost, nothing wider than a line, broken where words begin.

import assert from "node:assert/strict";
import { test } from "node:test";
import { flowText, standApart } from "../../../pellucid/viewer/page/flow.js";

const options = { width: 20, widthOf: (_, text) => Array.from(text).length };

/** Numbers that look random and are the same in each run. */
function* numbers(seed) {
  for (let x = seed; ; ) {
    x = (x * 1103515245 + 12345) % 2147483648;
    yield x / 2147483648;
  }
}

function linesOf(shown, flow) {
  return flow.lines.slice(0, -1).map((first, line) => {
    let text = "";
    for (let piece = first; piece < flow.lines[line + 1]; piece++) text += shown[flow.tokens[piece]].slice(flow.from[piece], flow.to[piece]);
    return text;
  });
}

test("every character stands once, in order, and no line is too wide", () => {
  const random = numbers(7);
  const parts = ["a", " word", "longer", "\n", "\n\n", " ", "語", "😀", "x".repeat(57), "", " end\nnext", "😀".repeat(31)];
  for (let round = 0; round < 60; round++) {
    const shown = Array.from({ length: 40 }, () => parts[Math.floor(random.next().value * parts.length)]);
    const flow = flowText(shown, options);
    const lines = linesOf(shown, flow);
    assert.equal(lines.join(""), shown.join(""));
    for (const line of lines) {
      assert.ok(Array.from(line).length <= options.width + 1, line);
      assert.equal(line.slice(0, -1).includes("\n"), false);
      assert.equal(/^[\udc00-\udfff]|[\ud800-\udbff]$/.test(line), false, "a character is cut");
    }
    shown.forEach((_, token) => {
      const line = flow.lineOf[token];
      const pieces = flow.tokens.slice(flow.lines[line], flow.lines[line + 1]);
      assert.ok(pieces.includes(token));
    });
  }
});

test("a word of several tokens stays in one line where it fits", () => {
  const shown = ["one", " two", " three", " four", "teen", "th"];
  assert.deepEqual(linesOf(shown, flowText(shown, options)), ["one two three", " fourteenth"]);
});

test("tokens without spaces break before whole words", () => {
  const shown = ["the", "matrix", "of", "pe", "##ll", "##uc", "##id"];
  assert.equal(standApart(shown), true);
  assert.equal(standApart(["a", " b"]), false);
  const apart = { ...options, apart: true, gap: 1 };
  assert.deepEqual(linesOf(shown, flowText(shown, apart)), ["thematrixof", "pe##ll##uc##id"]);
});

test("in a column every token begins a line", () => {
  const flow = flowText(["a", "b\nc", "d"], { ...options, column: true });
  assert.deepEqual([...flow.lineOf], [0, 1, 3]);
});

test("a text of no tokens has no line", () => {
  assert.deepEqual(flowText([], options).lines, [0]);
});

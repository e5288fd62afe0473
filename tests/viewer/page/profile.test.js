import assert from "node:assert/strict";
import test from "node:test";

import { headsOf, numberOf, numberTitle } from "../../../pellucid/viewer/page/headmodel.js";
import { profileNotes, profileNumbers, profileStatistic, profileSummary } from "../../../pellucid/viewer/page/profilemodel.js";

const corpus = { name: "texts", documents: 1200, tokens: 34567, total: 1300, done: [[0, 1202]], cut: 3, cut_tokens: 4000, unread_count: 2, unread: [{ number: 7, name: "a.txt", reason: "is no UTF-8 text" }] };
const profile = {
  model: "model", documents: 1200, corpora: [corpus], left_out: [],
  layers: [{ number: 0, name: "h.0", role: "self", head_numbers: [0, 2], map: true }],
  statistics: { mean: { entropy: [1, 2], entropy_without_sink: [0.5, null] }, median: { entropy: [3, 4], entropy_without_sink: [5, 6] } },
  numbers: { layer: [0, 0], head: [0, 1], kind: ["sink", "local"], because: ["", ""], kind_without_sink: ["local", "local"], because_without_sink: ["", ""], paired: ["entropy"], titles: { entropy: "entropy, nats" } },
};

test("the numbers of all heads are those of the statistic that is chosen, and say so", () => {
  const numbers = profileNumbers(profile, profileStatistic(profile, "median"));
  const heads = headsOf(profile, numbers);
  assert.deepEqual(heads.map((head) => numberOf(numbers, head, "entropy", "with")), [3, 4]);
  assert.deepEqual(heads.map((head) => numberOf(numbers, head, "entropy", "without")), [5, 6]);
  assert.equal(numberTitle(numbers, "entropy", "without"), "median of entropy, nats, without the sink");
  assert.equal(profileStatistic(profile, "nonsense"), "mean");
});

test("what was not read, cut or left out is said", () => {
  assert.equal(profileSummary(profile), "model · 2 heads · 1,200 documents · 34,567 tokens");
  assert.deepEqual(profileNotes({ ...profile, left_out: ["much"] }), [
    "texts: not all 1,300 documents were reached, and every number is of the 1,202 that are in",
    "2 documents of texts could not be read, the first a.txt: is no UTF-8 text",
    "3 documents of texts were longer than allowed, and cut by 4,000 tokens in all",
    "left out of this page: much",
  ]);
  assert.deepEqual(profileNotes({ ...profile, corpora: [{ ...corpus, total: 1202, cut: 0, unread_count: 0 }] }), []);
});

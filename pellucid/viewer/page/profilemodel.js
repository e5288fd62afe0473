// A profile of a corpus as its page has it: heads, their numbers in one statistic over the documents, what is to be known.

import { plainName } from "./choices.js";

/**
 * @typedef {import("./client.js").Numbers} Numbers
 * @typedef {{number: number, name: string, reason: string}} Unread
 * @typedef {{name: string, documents: number, tokens: number, total: number | null, done: [number, number][], cut: number,
 *   cut_tokens: number, unread_count: number, unread: Unread[]}} Corpus
 * @typedef {{pellucid: string, title: string, model: string, complete: boolean, documents: number, settings: Record<string, any>,
 *   corpora: Corpus[], layers: any[], statistics: Record<string, Record<string, (number | null)[]>>,
 *   numbers: Omit<Numbers, "numbers">, left_out: string[]}} Profile
 * @typedef {{name: string, share: number, low: number, high: number, documents: number, second: string | null,
 *   second_share: number, leads: boolean, counts: Record<string, number>}} CorpusKind
 * @typedef {{documents: number, mean: number | null, spread: number | null, least: number | null, most: number | null,
 *   quantiles: Record<string, number | null>, histogram: {edges: number[], counts: number[]}}} Spread
 * @typedef {{name: string, mass: number, equal: number | null}} Mass
 * @typedef {[position: number, token: string | null, weight: number | null, isQuery: boolean, isKey: boolean]} Piece
 * @typedef {{of_source: boolean, apart: boolean, pieces: Piece[]}} Passage apart: tokens hold no spaces of their own
 * @typedef {{value: number | null, document: {corpus: string, number: number, name: string}, length: number, query: number | null,
 *   query_token: string | null, key: number | null, key_token: string | null, weight: number | null, passages: Passage[]}} Example
 * @typedef {{kinds: {with: CorpusKind, without: CorpusKind}, numbers: Record<string, Spread>, telling: string, by_distance: Mass[],
 *   on_classes: Mass[], by_position: (number | null)[][], keys: Example[], sequences: Example[]}} ProfiledHead
 */

/**
 * The statistic that is chosen, or the first.
 * @param {Profile} profile
 * @param {string} name
 */
export function profileStatistic(profile, name) {
  return name in profile.statistics ? name : Object.keys(profile.statistics)[0];
}

/**
 * The numbers of all heads in one statistic, as the views of a record take them.
 * @param {Profile} profile
 * @param {string} statistic
 * @returns {Numbers}
 */
export function profileNumbers(profile, statistic) {
  const titles = Object.entries(profile.numbers.titles).map(([name, title]) => [name, statistic === "mean" ? title : `${statistic} of ${title}`]);
  return { ...profile.numbers, titles: Object.fromEntries(titles), numbers: profile.statistics[statistic] };
}

/**
 * What was read, in one line.
 * @param {Profile} profile
 */
export function profileSummary(profile) {
  const heads = profile.layers.reduce((sum, layer) => sum + layer.head_numbers.length, 0);
  const tokens = profile.corpora.reduce((sum, corpus) => sum + corpus.tokens, 0);
  return `${plainName(profile.model, 60)} · ${inThousands(heads)} heads · ${inThousands(profile.documents)} documents · ${inThousands(tokens)} tokens`;
}

/**
 * What must be known before the numbers are believed: what was not read, cut, left out.
 * @param {Profile} profile
 * @returns {string[]}
 */
export function profileNotes(profile) {
  const notes = profile.corpora.flatMap((corpus) => {
    const done = corpus.done.reduce((sum, [start, stop]) => sum + stop - start, 0);
    const whole = corpus.total !== null && done === corpus.total;
    const name = plainName(corpus.name, 60);
    return [
      whole ? "" : `${name}: ${corpus.total === null ? "its end was not seen" : `not all ${inThousands(corpus.total)} documents were reached`}, and every number is of the ${inThousands(done)} that are in`,
      corpus.unread_count ? `${inThousands(corpus.unread_count)} documents of ${name} could not be read, the first ${plainName(corpus.unread[0].name, 60)}: ${plainName(corpus.unread[0].reason, 200)}` : "",
      corpus.cut ? `${inThousands(corpus.cut)} documents of ${name} were longer than allowed, and cut by ${inThousands(corpus.cut_tokens)} tokens in all` : "",
    ];
  });
  return [...notes.filter(Boolean), ...profile.left_out.map((what) => `left out of this page: ${what}`)];
}

/**
 * A whole number with its thousands apart.
 * @param {number} value
 */
export function inThousands(value) {
  return value.toLocaleString("en");
}

/**
 * A share in whole percents.
 * @param {number} share
 */
export function inPercent(share) {
  return `${Math.round(100 * share)} %`;
}

// Attention step by step, on numbers that can be changed: the page of `pellucid explain --page`.

import { fill, h } from "./dom.js";
import { attentionOf, copyOf, entryOf, matrixOf } from "./explainmath.js";
import { explainDigits, MatrixTable } from "./explainmatrix.js";
import { explainMade, explainSources } from "./explainsources.js";
import { shownToken } from "./tokens.js";

/**
 * What Python gives of one lesson.
 * @typedef {{title: string, introduction: string, sentences: Record<string, string>, formulas: Record<string, string>,
 *   tokens: number[][], context: number[][] | null, query_labels: string[], key_labels: string[],
 *   projections: {weight: number[][], bias: number[] | null}[], rotary: {base: number} | null}} Told
 * @typedef {import("./explainmath.js").Matrix} Matrix
 * @typedef {import("./explainmath.js").Given} Given
 * @typedef {import("./explainmatrix.js").Place} Place
 */

const explainProjected = /** @type {const} */ (["q", "k", "v"]);

/**
 * Show the lessons in an element.
 * @param {HTMLElement} root
 * @param {Told[]} lessons
 */
export function openExplain(root, lessons) {
  root.classList.add("pellucid", "pl-explain");
  const body = h("main", { class: "pl-view" });
  const buttons = lessons.map((lesson, number) =>
    h("button", { type: "button", onclick: () => open(number) }, lesson.title.split(":")[0]),
  );
  const open = (/** @type {number} */ number) => {
    buttons.forEach((button, at) => (at === number ? button.setAttribute("aria-current", "page") : button.removeAttribute("aria-current")));
    fill(body, ...new LessonPage(lessons[number]).elements);
  };
  fill(root, h("header", {}, h("strong", {}, "Attention, step by step"), h("nav", { "aria-label": "lessons" }, buttons)), body);
  open(0);
}

/** One lesson: its matrices, and what follows when one of their numbers changes. */
class LessonPage {
  /** @param {Told} told */
  constructor(told) {
    this.told = told;
    this.first = this.givenMatrices();
    this.given = this.givenMatrices();
    /** @type {Map<string, MatrixTable>} */
    this.tables = new Map();
    /** @type {Place | null} */
    this.kept = null;
    this.computed = attentionOf(this.inputs());
    this.note = explainNote((value) => this.kept && this.change(this.kept.name, this.kept.row, this.kept.column, value));
    this.resets = h("button", { type: "button", disabled: true, onclick: () => this.reset() }, "Put all numbers back");
    this.elements = [this.introduction(), ...this.steps(), this.note.element];
  }

  /** The matrices whose numbers are given, by name. @returns {Map<string, Matrix>} */
  givenMatrices() {
    const { tokens, context, projections } = this.told;
    /** @type {[string, number[][] | null][]} */
    const named = [["x", tokens], ["context", context]];
    explainProjected.forEach((letter, at) => {
      const { weight, bias } = projections[at];
      named.push([`W_${letter}`, weight], [`b_${letter}`, bias && [bias]]);
    });
    return new Map(named.flatMap(([name, rows]) => (rows ? [/** @type {[string, Matrix]} */ ([name, matrixOf(rows)])] : [])));
  }

  /** @returns {Given} */
  inputs() {
    const of = (/** @type {string} */ name) => /** @type {Matrix} */ (this.given.get(name));
    const projections = explainProjected.map((letter) => ({ weight: of(`W_${letter}`), bias: this.given.get(`b_${letter}`) ?? null }));
    return { tokens: of("x"), context: this.given.get("context") ?? null, projections, rotary: this.told.rotary };
  }

  /** @param {string} name @returns {Matrix} */
  matrix(name) {
    const { query, key, value, scores, weights, attended } = this.computed;
    /** @type {Record<string, Matrix>} */
    const made = { Q: query, K: key, V: value, scores, weights, attended };
    return made[name] ?? this.given.get(name);
  }

  introduction() {
    return h(
      "section",
      { class: "pl-x-introduction" },
      h("h1", {}, this.told.title),
      h("p", {}, this.told.introduction),
      h(
        "p",
        { class: "pl-x-how" },
        "Numbers in a frame can be changed, and all that follows from them changes at once. Click one, or come to it with Tab: type another, ",
        "or press ↑ and ↓ for steps of 0.1 (with Shift 1, with Alt 0.01). ← → and Enter go on to the neighbours, Esc takes a change back. ",
        "Point at a result to see the row and the column that made it.",
      ),
      this.resets,
    );
  }

  steps() {
    const { sentences, formulas } = this.told;
    const head = this.matrix("Q").columns;
    const inputs = ["x", "context"].filter((name) => this.given.has(name));
    const learned = explainProjected.flatMap((letter) => [`W_${letter}`, `b_${letter}`]).filter((name) => this.given.has(name));
    const parts = /** @type {[string, string, string[], Record<string, string>][]} */ ([
      ["Tokens", sentences.tokens, inputs, {}],
      ["Projections", sentences.projection, learned, {}],
      ["Queries, keys, values", sentences.projected, ["Q", "K", "V"], { Q: formulas.query, K: formulas.key, V: formulas.value }],
      ["Scores", sentences.scores, ["scores"], { scores: `Q @ K.T / √${head}` }],
      ["Weights", sentences.weights, ["weights"], { weights: "softmax(scores)" }],
      ["Attended", sentences.attended, ["attended"], { attended: "weights @ V" }],
    ]);
    return parts.map(([title, sentence, names, made], number) =>
      h(
        "section",
        {},
        h("h2", {}, `${number + 1}. ${title}`),
        h("p", {}, sentence),
        h("div", { class: "pl-x-matrices" }, names.map((name) => this.newTable(name, made[name] ?? "").element)),
      ),
    );
  }

  /**
   * @param {string} name
   * @param {string} formula
   * @returns {MatrixTable}
   */
  newTable(name, formula) {
    const matrix = this.matrix(name);
    const [queries, keys] = [this.told.query_labels, this.told.key_labels].map((labels) => labels.map((label) => shownToken(label, 8)));
    const plain = (/** @type {number} */ count) => [...Array(count).keys()].map(String);
    const rows = name === "context" || name === "K" || name === "V" ? keys : /^[Wb]_/.test(name) ? plain(matrix.rows) : queries;
    const columns = name === "scores" || name === "weights" ? keys : plain(matrix.columns);
    const shown = { name, formula, rows, columns, given: this.given.has(name), shares: name === "weights" };
    const table = new MatrixTable(shown, matrix, {
      change: (...place) => this.change(...place),
      point: (place, kept) => this.point(place, kept),
    });
    this.tables.set(name, table);
    return table;
  }

  /**
   * @param {string} name
   * @param {number} row
   * @param {number} column
   * @param {number} value
   */
  change(name, row, column, value) {
    const matrix = /** @type {Matrix} */ (this.given.get(name));
    matrix.values[row * matrix.columns + column] = value;
    this.follow();
    this.resets.disabled = false;
  }

  /** Compute everything again from the numbers given. */
  follow() {
    this.computed = attentionOf(this.inputs());
    for (const [name, table] of this.tables) table.show(this.matrix(name), true);
    this.tell(this.kept);
  }

  reset() {
    for (const [name, matrix] of this.first) this.given.set(name, copyOf(matrix));
    this.follow();
    this.resets.disabled = true;
  }

  /**
   * @param {Place | null} place
   * @param {boolean} kept
   */
  point(place, kept) {
    if (kept) this.kept = place;
    this.tell(place ?? this.kept);
  }

  /**
   * Light up what made a number, and say how.
   * @param {Place | null} place
   */
  tell(place) {
    /** @type {Record<string, {row?: number, column?: number}[]>} */
    const lit = place ? explainSources(place, this.matrix("Q").columns, this.told) : {};
    if (place) lit[place.name] = [{ row: place.row, column: place.column }];
    for (const [name, table] of this.tables) table.light(lit[name] ?? []);
    if (!place) return this.note.show("", null);
    const given = this.given.get(place.name);
    const isKept = place === this.kept || (this.kept !== null && place.name === this.kept.name && place.row === this.kept.row && place.column === this.kept.column);
    this.note.show(explainMade(place, (name) => this.matrix(name), this.told), given && isKept ? entryOf(given, place.row, place.column) : null);
  }
}

/**
 * The line at the page's foot: how a number was made, and a slider for one that can be changed.
 * @param {(value: number) => void} slid
 */
function explainNote(slid) {
  const text = h("output", { class: "pl-x-made" });
  const slider = h("input", { type: "range", step: "0.01", "aria-label": "the chosen number", oninput: () => slid(Number(slider.value)) });
  const element = h("footer", { class: "pl-x-note", hidden: true }, text, slider);
  return {
    element,
    /** @param {string} told @param {number | null} value */
    show(told, value) {
      element.hidden = !told;
      text.textContent = told;
      slider.hidden = value === null;
      if (value === null || document.activeElement === slider) return;
      const reach = Math.max(2, Math.ceil(Math.abs(value) * 2));
      slider.min = String(-reach);
      slider.max = String(reach);
      slider.value = String(value);
      slider.setAttribute("aria-valuetext", explainDigits(value));
    },
  };
}

// A matrix as a table: shaded cells, a label for each row and column, and for what is given, numbers that change.

import { h } from "./dom.js";
import { entryOf } from "./explainmath.js";

/**
 * What a table is of.
 * @typedef {{name: string, formula: string, rows: string[], columns: string[], given?: boolean, shares?: boolean}} Shown
 * given: its numbers may be changed; shares: rows of weights, their sums behind them
 * @typedef {import("./explainmath.js").Matrix} Matrix
 * @typedef {{change: (name: string, row: number, column: number, value: number) => void,
 *   point: (place: Place | null, kept: boolean) => void}} Listener kept: by focus, not by the pointer alone
 * @typedef {{name: string, row: number, column: number}} Place
 */

const explainSteps = { plain: 0.1, shift: 1, alt: 0.01 };

/**
 * A number as the terminal writes it.
 * @param {number} value
 * @returns {string}
 */
export function explainDigits(value) {
  if (!Number.isFinite(value)) return String(value);
  const text = Math.abs(value) < 10000 ? value.toFixed(3) : value.toPrecision(3);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

/**
 * A number as it stands in the editor.
 * @param {number} value
 * @returns {string}
 */
function explainTyped(value) {
  return String(Number(value.toFixed(3)));
}

/** One matrix of the lesson on the page. */
export class MatrixTable {
  /**
   * @param {Shown} shown
   * @param {Matrix} matrix
   * @param {Listener} listener
   */
  constructor(shown, matrix, listener) {
    this.shown = shown;
    this.matrix = matrix;
    this.listener = listener;
    /** @type {HTMLTableCellElement[]} */
    this.cells = [];
    /** @type {HTMLTableCellElement[]} */
    this.sums = [];
    /** @type {HTMLTableCellElement[]} */
    this.lit = [];
    this.stop = 0; // the cell that Tab reaches
    this.editor = shown.given ? this.newEditor() : null;
    this.editing = -1;
    this.size = h("span", { class: "pl-x-size" }, `[${matrix.rows}, ${matrix.columns}]`);
    this.table = this.newTable();
    this.element = h(
      "figure",
      { class: `pl-x-matrix${shown.given ? " pl-x-given" : ""}` },
      h("figcaption", {}, h("strong", {}, shown.name), shown.formula ? ` = ${shown.formula} ` : " ", this.size),
      h("div", { class: "pl-x-scroll", tabIndex: -1 }, this.table),
    );
    this.show(matrix);
  }

  /** @returns {HTMLTableElement} */
  newTable() {
    const { rows, columns, name, given, shares } = this.shown;
    const head = h("tr", {}, h("td", {}), columns.map((label) => h("th", { scope: "col" }, label)), shares ? h("th", { scope: "col" }, "sum") : null);
    const lines = rows.map((label, row) => {
      const cells = columns.map((_, column) => this.newCell(row, column));
      this.cells.push(...cells);
      const sum = shares ? h("td", { class: "pl-x-sum" }) : null;
      if (sum) this.sums.push(sum);
      return h("tr", {}, h("th", { scope: "row" }, label), cells, sum);
    });
    const label = `${name}, ${rows.length} rows and ${columns.length} columns${given ? ", numbers that may be changed" : ""}`;
    const table = h("table", { role: "grid", "aria-label": label }, h("thead", {}, head), h("tbody", {}, lines));
    for (const [event, act] of Object.entries({
      pointerover: this.pointed, pointerleave: () => this.listener.point(null, false), focusin: this.focused, focusout: this.left, keydown: this.pressed,
    })) table.addEventListener(event, /** @type {EventListener} */ (act.bind(this)));
    return table;
  }

  /**
   * @param {number} row
   * @param {number} column
   * @returns {HTMLTableCellElement}
   */
  newCell(row, column) {
    const index = row * this.matrix.columns + column;
    return h("td", { tabIndex: index === 0 ? 0 : -1, "data-index": index });
  }

  /** @returns {HTMLInputElement} */
  newEditor() {
    const typed = () => {
      const value = Number(editor.value.trim().replace(",", "."));
      const fits = editor.value.trim() !== "" && Number.isFinite(value);
      editor.setAttribute("aria-invalid", String(!fits));
      if (fits) this.change(this.editing, value);
    };
    const editor = h("input", { type: "text", inputMode: "decimal", autocomplete: "off", size: 1, class: "pl-x-editor", oninput: typed });
    return editor;
  }

  /**
   * Put other numbers in; what has changed is marked.
   * @param {Matrix} matrix
   * @param {boolean} [marks]
   */
  show(matrix, marks = false) {
    this.matrix = matrix;
    const most = this.shown.shares ? 1 : matrix.values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0) || 1;
    this.cells.forEach((cell, index) => {
      const text = explainDigits(matrix.values[index]);
      const before = cell.dataset.text;
      cell.classList.toggle("pl-x-changed", marks && before !== undefined && before !== text);
      if (before !== text) {
        cell.dataset.text = text;
        if (index !== this.editing) cell.textContent = text;
      }
      const share = Math.min(1, Math.abs(matrix.values[index]) / most) || 0;
      cell.style.setProperty("--pl-x-share", `${(share * 100).toFixed(1)}%`);
      cell.classList.toggle("pl-x-negative", matrix.values[index] < 0);
    });
    this.sums.forEach((sum, row) => {
      let total = 0;
      for (let column = 0; column < matrix.columns; column++) total += entryOf(matrix, row, column);
      sum.textContent = explainDigits(total);
    });
  }

  /**
   * Light up a row, a column, or where both are given the cell in which they meet.
   * @param {{row?: number, column?: number}[]} places
   */
  light(places) {
    for (const cell of this.lit) cell.classList.remove("pl-x-lit");
    this.lit = this.cells.filter((_, index) => {
      const [row, column] = this.placeOf(index);
      return places.some((place) => (place.row ?? row) === row && (place.column ?? column) === column);
    });
    for (const cell of this.lit) cell.classList.add("pl-x-lit");
  }

  /**
   * @param {number} index
   * @returns {[number, number]}
   */
  placeOf(index) {
    return [Math.floor(index / this.matrix.columns), index % this.matrix.columns];
  }

  /**
   * @param {number} index
   * @param {number} value
   */
  change(index, value) {
    const [row, column] = this.placeOf(index);
    this.listener.change(this.shown.name, row, column, value);
  }

  /** @param {Event} event */
  pointed(event) {
    const index = indexOfCell(event.target);
    const [row, column] = this.placeOf(index);
    this.listener.point(index < 0 ? null : { name: this.shown.name, row, column }, false);
  }

  /** @param {FocusEvent} event */
  focused(event) {
    const index = indexOfCell(event.target);
    if (index < 0) return;
    this.cells[this.stop].tabIndex = -1;
    this.cells[index].tabIndex = 0;
    this.stop = index;
    const [row, column] = this.placeOf(index);
    this.listener.point({ name: this.shown.name, row, column }, true);
    if (this.editor && index !== this.editing) this.edit(index);
  }

  /** @param {number} index */
  edit(index) {
    const editor = /** @type {HTMLInputElement} */ (this.editor);
    const [row, column] = this.placeOf(index);
    this.editing = index;
    this.before = this.matrix.values[index];
    editor.value = explainTyped(this.before);
    editor.setAttribute("aria-label", `${this.shown.name}, row ${this.shown.rows[row]}, column ${this.shown.columns[column]}`);
    editor.setAttribute("aria-invalid", "false");
    this.cells[index].tabIndex = -1; // the editor is what Tab leaves
    this.cells[index].replaceChildren(editor);
    editor.focus();
    editor.select();
  }

  /** @param {FocusEvent} event */
  left(event) {
    if (this.editing >= 0 && event.target === this.editor && event.relatedTarget !== this.cells[this.editing]) this.endEdit();
  }

  endEdit() {
    const cell = this.cells[this.editing];
    this.editing = -1;
    cell.replaceChildren(cell.dataset.text ?? "");
    this.cells[this.stop].tabIndex = 0;
  }

  /** Put the number that was changed elsewhere into the editor. */
  refreshEditor() {
    if (this.editor && this.editing >= 0) this.editor.value = explainTyped(this.matrix.values[this.editing]);
  }

  /** @param {KeyboardEvent} event */
  pressed(event) {
    const index = indexOfCell(event.target);
    if (index < 0) return;
    const step = this.editor && stepOfKey(event);
    if (step) {
      this.change(index, Number((this.matrix.values[index] + step).toPrecision(12)));
      this.refreshEditor();
    } else if (this.editor && event.key === "Escape" && this.before !== undefined) {
      this.change(index, this.before);
      this.refreshEditor();
    } else {
      const next = this.neighbour(index, event);
      if (next === null) return;
      this.cells[next].focus();
    }
    event.preventDefault();
  }

  /**
   * The cell that a key leads to; null where it means something else.
   * @param {number} index
   * @param {KeyboardEvent} event
   * @returns {number | null}
   */
  neighbour(index, event) {
    const [row, column] = this.placeOf(index);
    const { rows, columns } = this.matrix;
    const down = event.key === "Enter" ? (event.shiftKey ? -1 : 1) : event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    const right = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!down && !right) return null;
    if (right && this.editor && !isAtEnd(this.editor, right)) return null;
    const [toRow, toColumn] = [row + down, column + right];
    return toRow < 0 || toRow >= rows || toColumn < 0 || toColumn >= columns ? index : toRow * columns + toColumn;
  }
}

/**
 * @param {EventTarget | null} target
 * @returns {number} -1: no cell
 */
function indexOfCell(target) {
  const cell = target instanceof Element ? target.closest("td[data-index]") : null;
  return cell instanceof HTMLElement ? Number(cell.dataset.index) : -1;
}

/**
 * How far a key changes a number.
 * @param {KeyboardEvent} event
 * @returns {number}
 */
function stepOfKey(event) {
  const sign = event.key === "ArrowUp" ? 1 : event.key === "ArrowDown" ? -1 : 0;
  return sign * (event.shiftKey ? explainSteps.shift : event.altKey ? explainSteps.alt : explainSteps.plain);
}

/**
 * Whether an arrow leads out of a text: at its end, or all of it is chosen.
 * @param {HTMLInputElement} editor
 * @param {number} right
 * @returns {boolean}
 */
function isAtEnd(editor, right) {
  const [from, to] = [editor.selectionStart ?? 0, editor.selectionEnd ?? 0];
  if (from === 0 && to === editor.value.length) return true;
  return from === to && to === (right > 0 ? editor.value.length : 0);
}

// Going to a token of an axis, by its text or by its number.

import { h } from "./dom.js";
import { findText } from "./find.js";
import { standApart } from "./flow.js";

/**
 * @typedef {import("./axes.js").AxisText} AxisText
 * @typedef {"queries" | "keys"} AxisName
 * @typedef {{text: AxisText, length: number}} GotoAxis
 */

/**
 * Places of an axis that a text names: its position, or where it stands.
 * @param {GotoAxis} axis
 * @param {string} wanted
 * @returns {[number, number][]} first and last of each
 */
export function placesNamed({ text, length }, wanted) {
  const { texts, offset } = text;
  const part = texts ? texts.slice(offset, offset + length) : null;
  const found = part && wanted ? findText(part, wanted, standApart(part)) : [];
  const number = /^\s*\d+\s*$/.test(wanted) ? Number(wanted) - offset : -1;
  if (number < 0 || number >= length) return found;
  return [[number, number], ...found.filter(([first]) => first !== number)];
}

/**
 * The field, with what it found.
 * @param {(name: AxisName) => GotoAxis | null} axisOf
 * @param {(name: AxisName, first: number) => void} go
 * @param {(text: string) => void} announce
 */
export function gotoBox(axisOf, go, announce) {
  const axis = h("select", { "aria-label": "axis that is searched", onchange: () => forget() }, h("option", { value: "queries" }, "queries"), h("option", { value: "keys" }, "keys"));
  const input = h("input", { type: "search", class: "pl-map-goto", placeholder: "token or number", "aria-label": "go to a token or a number", oninput: () => forget() });
  const count = h("span", { class: "pl-faint", role: "status" });
  const back = h("button", { type: "button", title: "the place found before (N)", "aria-label": "the place found before", onclick: () => step(-1) }, "‹");
  const on = h("button", { type: "button", title: "the next place found (n)", "aria-label": "the next place found", onclick: () => step(1) }, "›");
  const submit = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    step(1);
  };
  const element = h("form", { class: "pl-map-tool pl-map-goto-form", role: "search", onsubmit: submit }, "Go to ", input, axis, back, on, count);
  /** @type {[number, number][] | null} */
  let found = null;
  let at = -1;

  function forget() {
    found = null;
    at = -1;
    count.textContent = "";
  }

  /** @param {1 | -1} way */
  function step(way) {
    const name = axis.value === "keys" ? "keys" : "queries";
    const searched = axisOf(name);
    if (!searched || !input.value) return;
    found ??= placesNamed(searched, input.value);
    if (!found.length) {
      count.textContent = "not there";
      return announce(`${input.value} is not there`);
    }
    at = at < 0 ? (way > 0 ? 0 : found.length - 1) : (at + way + found.length) % found.length;
    count.textContent = `${at + 1} of ${found.length}`;
    go(name, found[at][0]);
  }

  function focus() {
    const folded = element.closest("details");
    if (folded) folded.open = true;
    input.focus();
    input.select();
  }

  return { element, step, forget, focus };
}

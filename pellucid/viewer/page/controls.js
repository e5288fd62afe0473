// Controls that change one name of the state.

import { COLOUR_MAPS } from "./colour.js";
import { h } from "./dom.js";

/**
 * A choice of one of some values of a name; the first is what holds where the state says nothing.
 * @param {import("./state.js").ViewState} state
 * @param {string} name
 * @param {string} label
 * @param {[string, string][]} options values and their words
 * @returns {{element: HTMLElement, update: (state: import("./state.js").State) => void}}
 */
export function stateChoice(state, name, label, options) {
  const select = h(
    "select",
    { onchange: () => state.set({ [name]: select.value === options[0][0] ? null : select.value }) },
    options.map(([value, word]) => h("option", { value }, word)),
  );
  const element = h("label", { class: "pl-choice" }, label, select);
  return {
    element,
    update(current) {
      select.value = options.some(([value]) => value === current[name]) ? current[name] : options[0][0];
    },
  };
}

/**
 * A row of controls, of which some fold away where there is little room.
 * @param {string} label
 * @param {(Node | Node[])[]} first
 * @param {(Node | Node[])[]} folded
 * @returns {HTMLElement}
 */
export function toolbar(label, first, folded) {
  const more = h("button", { type: "button", class: "pl-toolbar-more", "aria-expanded": "false", onclick: () => more.setAttribute("aria-expanded", String(element.classList.toggle("pl-toolbar-open"))) }, "More");
  const element = h("div", { class: "pl-toolbar", role: "group", "aria-label": label }, first.flat(), more, h("span", { class: "pl-toolbar-folded" }, folded.flat()));
  return element;
}

/**
 * The choices that say how heads become one and weights colours behind words, where the square root is read best: by
 * logarithms nearly every word is coloured.
 * @param {import("./state.js").ViewState} state
 */
export function colourChoices(state) {
  const over = stateChoice(state, "over", "Heads", [["mean", "mean"], ["max", "largest"]]);
  const choices = [
    over,
    stateChoice(state, "scale", "Scale", [["sqrt", "square root"], ["log", "log"], ["linear", "linear"]]),
    stateChoice(state, "colours", "Colours", COLOUR_MAPS.map((name) => [name, name])),
  ];
  return {
    elements: choices.map((choice) => choice.element),
    /** @param {import("./state.js").State} current @param {import("./app.js").Chosen | null} chosen */
    update(current, chosen) {
      choices.forEach((choice) => choice.update(current));
      over.element.hidden = (chosen?.heads.length ?? 1) < 2;
    },
  };
}

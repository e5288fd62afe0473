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
 * The choices that say how weights become colours behind words, where the square root is read best: by logarithms nearly
 * every word is coloured.
 * @param {import("./state.js").ViewState} state
 */
export function colourChoices(state) {
  const choices = [
    stateChoice(state, "scale", "Scale", [["sqrt", "square root"], ["log", "log"], ["linear", "linear"]]),
    stateChoice(state, "colours", "Colours", COLOUR_MAPS.map((name) => [name, name])),
  ];
  return {
    elements: choices.map((choice) => choice.element),
    update: (/** @type {import("./state.js").State} */ current) => choices.forEach((choice) => choice.update(current)),
  };
}

// The toolbar of the Heads view: what is shown of the heads, in which order, and in which form.

import { fill, h } from "./dom.js";
import { COLOUR_MAPS } from "./colour.js";
import { countsOf, kindOf, numberNames } from "./headmodel.js";
import { kindBadge, KIND_MEANS, KINDS } from "./kinds.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./headmodel.js").Head} Head
 * @typedef {import("./headmodel.js").HeadsChoice} HeadsChoice
 * @typedef {import("./client.js").Numbers} Numbers
 */

/**
 * @param {Page} page
 */
export function headFilters(page) {
  const element = h("div", { class: "pl-toolbar", role: "toolbar", "aria-label": "heads" });
  let made = "";
  return {
    element,
    /**
     * @param {Head[]} heads
     * @param {HeadsChoice} choice
     * @param {Numbers | null} numbers
     */
    update(heads, choice, numbers) {
      const state = page.state.state;
      const kinds = countsOf(heads, (head) => kindOf(numbers, head, choice.sink).kind);
      const roles = countsOf(heads, (head) => head.layer.role);
      const { pool, colours, scale, thumb } = state;
      const text = JSON.stringify([[...kinds], [...roles], { ...choice, roles: state.roles, kinds: state.kinds }, numberNames(numbers), pool, colours, scale, thumb]);
      if (text === made) return;
      made = text;
      const focus = focusedName(element);
      const groups = numbers
        ? [filtersSort(page, choice, numbers), filtersSink(page, choice), filtersChips(page, "kinds", KINDS, kinds, choice.kinds), filtersChips(page, "roles", ["self", "causal self", "cross"], roles, choice.roles)]
        : [];
      fill(element, groups, filtersLook(page, choice));
      if (focus) for (const one of element.querySelectorAll("[data-name]")) if (one.getAttribute("data-name") === focus && one instanceof HTMLElement) one.focus();
    },
  };
}

/** @param {HTMLElement} element */
function focusedName(element) {
  const root = element.getRootNode();
  const active = root instanceof Document || root instanceof ShadowRoot ? root.activeElement : null;
  return active && element.contains(active) ? active.getAttribute("data-name") : null;
}

/**
 * @param {Page} page
 * @param {string} name of the state
 * @param {string} label
 * @param {[string, string][]} options
 * @param {string} value
 */
export function filtersList(page, name, label, options, value) {
  const select = h("select", { "data-name": name, onchange: () => page.state.set({ [name]: select.value || null }) }, options.map(([one, text]) => h("option", { value: one }, text)));
  select.value = value;
  return h("label", { class: "pl-field" }, h("span", {}, label), select);
}

/**
 * @param {Page} page
 * @param {HeadsChoice} choice
 * @param {Numbers} numbers
 */
export function filtersSort(page, choice, numbers) {
  const sort = (/** @type {string} */ name, /** @type {boolean} */ ascending) => page.state.set({ sort: name ? (ascending ? "-" : "") + name : null });
  const select = h("select", { "data-name": "sort", onchange: () => sort(select.value, choice.ascending) }, h("option", { value: "" }, "layer"), numberNames(numbers).map((name) => h("option", { value: name, title: numbers.titles[name] ?? "" }, name.replaceAll("_", " "))));
  select.value = choice.sort;
  const way = choice.ascending ? "least first" : "most first";
  const turn = h("button", { type: "button", "data-name": "way", disabled: !choice.sort, title: "turn the order round", onclick: () => sort(choice.sort, !choice.ascending) }, choice.ascending ? "↑" : "↓", h("span", { class: "pl-live" }, way));
  return h("div", { class: "pl-row pl-close" }, h("label", { class: "pl-field" }, h("span", {}, "sorted by"), select), turn);
}

/** @param {Page} page @param {HeadsChoice} choice */
export function filtersSink(page, choice) {
  const box = h("input", { type: "checkbox", "data-name": "sink", checked: choice.sink === "with", onchange: () => page.state.set({ sink: box.checked ? "with" : null }) });
  return h("label", { class: "pl-check", title: "kinds and numbers of all weights, or of those that are not on the first token or a learned sink" }, box, "count the sink");
}

/**
 * Words that can be pressed, all or some of them.
 * @param {Page} page
 * @param {"kinds" | "roles"} name
 * @param {string[]} order
 * @param {Map<string, number>} counts
 * @param {Set<string> | null} chosen
 */
export function filtersChips(page, name, order, counts, chosen) {
  const words = [...order.filter((word) => counts.has(word)), ...[...counts.keys()].filter((word) => !order.includes(word))];
  if (name === "roles" && words.length < 2) return null;
  const press = (/** @type {string} */ word) => {
    const next = new Set(chosen ?? []);
    if (!next.delete(word)) next.add(word);
    page.state.set({ [name]: next.size && next.size < words.length ? [...next].join(",") : null });
  };
  const chip = (/** @type {string} */ word) =>
    h(
      "button",
      { type: "button", class: "pl-chip", "data-name": `${name} ${word}`, "aria-pressed": String(chosen?.has(word) ?? false), title: `${KIND_MEANS[word] ? `${KIND_MEANS[word]}; ` : ""}show only heads of the ${name} that are pressed, all where none is`, onclick: () => press(word) },
      name === "kinds" ? kindBadge(word) : null,
      `${word} ${counts.get(word) ?? 0}`,
    );
  return h("div", { class: "pl-chips", role: "group", "aria-label": name }, words.map(chip));
}

/** @param {Page} page @param {HeadsChoice} choice */
function filtersLook(page, choice) {
  const state = page.state;
  const isTable = choice.form === "table";
  const ofMaps = () => [
    filtersList(page, "pool", "a pixel is", [["", "mean"], ["max", "largest"]], state.get("pool") === "max" ? "max" : ""),
    filtersList(page, "scale", "scale", [["", "log"], ["sqrt", "square root"], ["linear", "linear"]], ["sqrt", "linear"].includes(state.get("scale")) ? state.get("scale") : ""),
    filtersList(page, "colours", "colours", COLOUR_MAPS.map((name) => [name, name]), COLOUR_MAPS.includes(state.get("colours")) ? state.get("colours") : COLOUR_MAPS[0]),
    filtersList(page, "thumb", "size", [["", "fit"], ["32", "small"], ["64", "middle"], ["128", "large"], ["256", "huge"]], state.get("thumb")),
  ];
  const turn = h("button", { type: "button", "data-name": "form", onclick: () => state.set({ form: isTable ? null : "table" }) }, isTable ? "Wall" : "Table");
  return h("div", { class: "pl-row pl-look" }, isTable ? [] : ofMaps(), turn);
}

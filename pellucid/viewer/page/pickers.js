// The pickers of the header: record, layer, heads, sequence. Each hides where there is nothing to choose.

import { fill, h } from "./dom.js";
import { headBeside, headsAsTyped, headsTyped, layerInWords, placesAsText, plainName } from "./choices.js";
import { kindBadge } from "./kinds.js";
import { menu } from "./menu.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./app.js").Chosen} Chosen
 * @typedef {{element: HTMLElement, update: (chosen: Chosen | null) => void, close?: () => void}} Picker
 */

const pickersMoved = { q: null, k: null, query: null, key: null, fixed: null }; // they belong to what was looked at before

/**
 * A list to choose one of, made anew only when what can be chosen changes.
 * @param {string} label
 * @param {(value: string) => void} choose
 */
function pickerList(label, choose) {
  const select = h("select", { onchange: () => choose(select.value) });
  const element = h("label", { class: "pl-field" }, h("span", {}, label), select);
  let made = "";
  return {
    element,
    /** @param {[string, string][]} options value and text @param {string} value */
    show(options, value) {
      const text = JSON.stringify(options);
      if (text !== made) fill(select, options.map(([name, shown]) => h("option", { value: name }, shown)));
      made = text;
      select.value = value;
      select.title = options.find(([name]) => name === value)?.[1] ?? "";
    },
  };
}

/**
 * @param {Page} page
 * @returns {Picker}
 */
export function recordPicker(page) {
  const name = h("span", { class: "pl-record-name" });
  const list = pickerList("record", (record) => page.state.set({ record, layer: null, heads: null, sequence: null, ...pickersMoved }));
  const element = h("div", { class: "pl-record" }, name, list.element);
  return {
    element,
    update() {
      const records = page.info.records;
      const record = page.record(page.state.state);
      if (!record) return;
      const several = records.length > 1;
      list.element.hidden = !several;
      name.hidden = several;
      name.textContent = plainName(record.title, 40);
      name.title = [record.title, record.model, record.path].filter(Boolean).join("\n");
      if (several) list.show(records.map((one) => [one.id, plainName(recordTitle(records, one), 40)]), record.id);
    },
  };
}

/**
 * @param {import("./client.js").RecordInfo[]} records
 * @param {import("./client.js").RecordInfo} record
 * @returns {string} its title, told from others of the same by its id
 */
function recordTitle(records, record) {
  const alike = records.filter((one) => one.title === record.title).length > 1;
  return alike ? `${record.id}: ${record.title}` : record.title;
}

/**
 * @param {Page} page
 * @returns {Picker}
 */
export function layerPicker(page) {
  const list = pickerList("layer", (layer) => page.state.set({ layer }));
  list.element.classList.add("pl-layer-field");
  return {
    element: list.element,
    update(chosen) {
      list.element.hidden = !chosen;
      if (chosen) list.show(chosen.record.layers.map((layer) => [String(layer.number), layerInWords(layer)]), String(chosen.layer.number));
    },
  };
}

/**
 * @param {Page} page
 * @returns {Picker}
 */
export function sequencePicker(page) {
  const list = pickerList("sequence", (sequence) => page.state.set({ sequence }));
  return {
    element: list.element,
    update(chosen) {
      const batch = chosen?.layer.batch ?? 1;
      list.element.hidden = batch < 2;
      if (chosen && batch > 1) list.show([...Array(batch).keys()].map((one) => [String(one), `${one} of ${batch}`]), String(chosen.sequence));
    },
  };
}

/**
 * Heads: typed, one after another, or pressed in a panel that shows their kinds.
 * @param {Page} page
 * @returns {Picker}
 */
export function headPicker(page) {
  const now = () => page.chosen(page.state.state);
  const input = h("input", { type: "text", class: "pl-heads-typed", spellcheck: false, autocomplete: "off", onchange: typed, title: "heads: all, 3, 0,2 or 4-7" });
  const step = (/** @type {1 | -1} */ by, /** @type {string} */ sign, /** @type {string} */ name) =>
    h("button", { type: "button", class: "pl-step", "aria-label": name, title: `${name} (${by > 0 ? "]" : "["})`, onclick: () => stepHead(page, by) }, sign);
  const panel = menu("▾", "choose heads", () => headPanel(page));
  panel.button.setAttribute("aria-label", "choose heads");
  const label = h("label", { class: "pl-field" }, h("span", {}, "heads"), input);
  const element = h("div", { class: "pl-heads-field", role: "group", "aria-label": "heads" }, label, step(-1, "‹", "head before"), step(1, "›", "next head"), panel.element);
  function typed() {
    const chosen = now();
    if (!chosen) return;
    const heads = headsTyped(input.value, chosen.layer);
    input.setAttribute("aria-invalid", String(heads === null));
    if (heads === null) page.announce(`heads: all, or numbers of ${chosen.layer.head_numbers.join(", ")}`);
    else page.state.set({ heads: heads === "all" ? null : heads });
    if (heads !== null) input.value = headsAsTyped(now()?.heads ?? [], chosen.layer);
  }
  return {
    element,
    close: panel.close,
    update(chosen) {
      element.hidden = !chosen;
      if (!chosen) return;
      input.value = headsAsTyped(chosen.heads, chosen.layer);
      input.removeAttribute("aria-invalid");
    },
  };
}

/**
 * @param {Page} page
 * @returns {HTMLElement}
 */
function headPanel(page) {
  const start = page.chosen(page.state.state);
  if (!start) return h("p", {}, "no layer has been read yet");
  const { layer, record } = start;
  const several = h("input", { type: "checkbox", checked: start.heads.length > 1 && start.heads.length < layer.heads });
  const whole = h("button", { type: "button", onclick: () => choose([]) }, "all");
  const buttons = layer.head_numbers.map((number, place) =>
    h("button", { type: "button", class: "pl-head-choice", onclick: (/** @type {MouseEvent} */ event) => pressed(place, event) }, String(number)),
  );
  const panel = h(
    "div",
    { class: "pl-head-panel" },
    h("div", { class: "pl-row" }, whole, h("label", { class: "pl-check" }, several, "several (or with Shift)")),
    h("div", { class: "pl-head-choices" }, buttons),
  );
  function pressed(/** @type {number} */ place, /** @type {MouseEvent} */ event) {
    const chosen = page.chosen(page.state.state)?.heads ?? [];
    if (!(several.checked || event.shiftKey || event.ctrlKey || event.metaKey)) return choose([place]);
    if (chosen.length === layer.heads) return choose([place]);
    choose(chosen.includes(place) ? chosen.filter((one) => one !== place) : [...chosen, place]);
  }
  function choose(/** @type {number[]} */ places) {
    const heads = placesAsText(places, layer);
    page.state.set({ layer: String(layer.number), heads: heads === "all" ? null : heads });
    mark();
  }
  function mark() {
    const chosen = page.chosen(page.state.state)?.heads ?? [];
    const all = chosen.length === layer.heads;
    whole.setAttribute("aria-pressed", String(all));
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(!(all && layer.heads > 1) && chosen.includes(place))));
  }
  mark();
  page.numbers(record.id).then((numbers) => numbers.layer.forEach((of, i) => of === layer.number && buttons[numbers.head[i]]?.append(kindBadge(numbers.kind_without_sink[i]))), () => {});
  return panel;
}

/**
 * @param {Page} page
 * @param {1 | -1} by
 */
export function stepHead(page, by) {
  const chosen = page.chosen(page.state.state);
  if (!chosen) return;
  const place = headBeside(chosen.heads, chosen.layer, by);
  page.state.set({ layer: String(chosen.layer.number), heads: place });
  page.announce(`head ${chosen.layer.head_numbers[Number(place)]} of layer ${chosen.layer.number}`);
}

/**
 * @param {Page} page
 * @param {1 | -1} by
 */
export function stepLayer(page, by) {
  const chosen = page.chosen(page.state.state);
  const next = chosen?.record.layers[chosen.layer.number + by];
  if (!next) return;
  page.state.set({ layer: String(next.number) });
  page.announce(`layer ${next.number}, ${next.name}, ${next.role}`);
}

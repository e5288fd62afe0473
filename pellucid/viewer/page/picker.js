// What a map is compared with: record, layer, heads and sequence of the names that begin with "b.".

import { fill, h } from "./dom.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./app.js").Chosen} Chosen
 * @typedef {{key: string, title: string, options: (chosen: Chosen) => [string, string][], now: (chosen: Chosen) => string}} Pick
 */

/**
 * @param {import("./app.js").Page} page
 * @param {string} prefix
 * @param {string} title
 */
export function placePicker(page, prefix, title) {
  /** @type {Pick[]} */
  const picks = [
    { key: "record", title: "Record", options: () => page.info.records.map((one) => [one.id, one.title]), now: (chosen) => chosen.record.id },
    {
      key: "layer",
      title: "Layer",
      options: ({ record }) => record.layers.map((layer) => [String(layer.number), layer.name]),
      now: (chosen) => String(chosen.layer.number),
    },
    { key: "heads", title: "Heads", options: pickerHeads, now: (chosen) => chosen.place.heads },
    {
      key: "sequence",
      title: "Sequence",
      options: ({ layer }) => Array.from({ length: layer.batch }, (_, number) => [String(number), String(number)]),
      now: (chosen) => String(chosen.sequence),
    },
  ];
  const made = picks.map((pick) => {
    const select = h("select", { onchange: () => page.state.set({ [prefix + pick.key]: select.value }) });
    return { pick, select, label: h("label", { class: "pl-map-tool" }, `${pick.title} `, select), shown: "" };
  });
  const element = h("div", { class: "pl-map-tool-group pl-map-picker", role: "group", "aria-label": title }, h("strong", {}, title), made.map((one) => one.label));
  return {
    element,
    /** @param {Chosen} chosen */
    update(chosen) {
      for (const one of made) {
        const options = one.pick.options(chosen);
        const text = JSON.stringify(options);
        if (text !== one.shown) fill(one.select, options.map(([value, name]) => h("option", { value }, name)));
        one.shown = text;
        one.select.value = one.pick.now(chosen);
        one.label.hidden = options.length < 2;
      }
    },
  };
}

/** @param {Chosen} chosen @returns {[string, string][]} */
function pickerHeads({ layer, place }) {
  const single = layer.head_numbers.map((number, head) => /** @type {[string, string]} */ ([String(head), `head ${number}`]));
  const several = place.heads.includes(",") ? [/** @type {[string, string]} */ ([place.heads, `heads ${place.heads}`])] : [];
  return [["all", "all heads"], ...several, ...single];
}

/**
 * What a map is compared with where nobody has said: the same layer of another record; else the next head, or layer.
 * @param {import("./app.js").Page} page
 * @param {Chosen} chosen
 * @returns {Record<string, string>} a change of the state
 */
export function naturalOther(page, { record, layer, heads, sequence }) {
  const alike = page.info.records.find((one) => one !== record && one.layers[layer.number]?.name === layer.name);
  if (alike) return { "b.record": alike.id };
  if (heads.length === 1 && layer.heads > 1) return { "b.heads": String((heads[0] + 1) % layer.heads) };
  if (record.layers.length > 1) return { "b.layer": String((layer.number + 1) % record.layers.length) };
  if (layer.batch > 1) return { "b.sequence": String((sequence + 1) % layer.batch) };
  const other = page.info.records.find((one) => one !== record && one.layers.length > 0);
  return other ? { "b.record": other.id } : { "b.heads": "0" };
}

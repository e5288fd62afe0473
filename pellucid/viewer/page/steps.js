// The steps of a generation: a slider over what each new token read, and a button that plays them.

import { h } from "./dom.js";

/**
 * The first row of each call of a layer. Where its own calls were joined (a key tensor serves them all), those of another
 * layer over the same rows.
 * @param {import("./client.js").RecordInfo} record
 * @param {import("./client.js").LayerInfo} layer
 * @returns {number[]}
 */
export function callsOf(record, layer) {
  const same = record.layers.find((one) => one.calls.length > 1 && one.q_len === layer.q_len && one.start === layer.start);
  return layer.calls.length > 1 ? layer.calls : (same?.calls ?? layer.calls);
}

/**
 * The rows of the steps: the last of the prompt, which the first new token came of, and every row after it.
 * @param {number[]} calls
 * @param {number} rows
 * @returns {number[]}
 */
export function stepRows(calls, rows) {
  if (calls.length < 2) return [];
  const first = calls[1];
  return Array.from({ length: rows - first + 1 }, (_, i) => first - 1 + i).filter((row) => row >= 0);
}

/**
 * @param {(row: number) => void} onrow
 */
export function stepSlider(onrow) {
  /** @type {number[]} */
  let rows = [];
  let timer = 0;
  const slider = h("input", { type: "range", min: "0", step: "1", value: "0", class: "pl-steps-slider", "aria-label": "step of the generation", oninput: () => onrow(rows[Number(slider.value)]) });
  const play = h("button", { type: "button", onclick: () => (timer ? stop() : start()) }, "▶ Play");
  const words = h("span", { class: "pl-steps-words" });
  const element = h("div", { class: "pl-steps", hidden: true }, play, slider, words);
  const go = (/** @type {number} */ step) => {
    slider.value = String(Math.max(0, Math.min(step, rows.length - 1)));
    onrow(rows[Number(slider.value)]);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "▶ Play";
  };
  const start = () => {
    play.textContent = "❚❚ Pause";
    if (Number(slider.value) >= rows.length - 1) go(0);
    timer = window.setInterval(() => {
      if (Number(slider.value) >= rows.length - 1 || !element.isConnected) stop();
      else go(Number(slider.value) + 1);
    }, 700);
  };
  return {
    element,
    stop,
    /**
     * @param {number[]} given
     * @param {number | null} row what is shown now
     * @param {(step: number) => string} describe
     */
    update(given, row, describe) {
      rows = given;
      element.hidden = !rows.length;
      if (!rows.length) return stop();
      slider.max = String(rows.length - 1);
      const step = row === null ? -1 : rows.indexOf(row);
      if (step >= 0) slider.value = String(step);
      words.textContent = step < 0 ? `${rows.length} steps` : `step ${step + 1} of ${rows.length}: ${describe(step)}`;
      slider.setAttribute("aria-valuetext", words.textContent);
    },
  };
}

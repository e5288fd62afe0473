// What a person takes along: the view as a picture, as a line of Python, as an address.

import { h } from "./dom.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./app.js").View} View
 */

/**
 * @param {Page} page
 * @param {View | null} view
 * @param {() => void} close
 * @returns {HTMLElement}
 */
export function picturePanel(page, view, close) {
  if (!view?.picture) return h("p", {}, "This view draws no picture.");
  const said = h("p", { role: "status" });
  const save = (/** @type {"png" | "svg"} */ kind) => async () => {
    said.textContent = "drawing …";
    try {
      const picture = await view.picture?.(kind);
      if (picture) download(picture.blob, picture.name);
      page.announce(`saved ${picture?.name}`);
      close();
    } catch (error) {
      said.textContent = `no picture: ${error instanceof Error ? error.message : error}`;
    }
  };
  const row = h("div", { class: "pl-row" }, h("button", { type: "button", onclick: save("png") }, "PNG"), h("button", { type: "button", onclick: save("svg") }, "SVG"));
  return h("div", {}, h("p", {}, "What is on screen, with its tokens, its colour bar and what is exact in it."), row, said);
}

/**
 * @param {Blob} blob
 * @param {string} name
 */
export function download(blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/**
 * @param {Page} page
 * @param {View | null} view
 * @returns {HTMLElement}
 */
export function copyPanel(page, view) {
  const whole = async () => {
    const line = await view?.python?.();
    return line ? pythonWhole(page, line) : "";
  };
  const python = view?.python ? takingField(page, "Python that gives what is on screen", whole()) : h("p", {}, "This view has no line of Python.");
  const address = page.state.write ? takingField(page, location.protocol === "file:" ? "Address of this view in this file" : "Address of this view, while the program that serves it runs", Promise.resolve(location.href)) : null;
  return h("div", {}, python, address);
}

/**
 * A line with what opens its record before it, so that it runs where it is pasted, or says which object is meant.
 * @param {Page} page
 * @param {string} line
 * @returns {string}
 */
export function pythonWhole(page, line) {
  const { state } = page.state;
  const opens = (page.record(state)?.opens ?? "").split("\n");
  const other = /\bother\[/.test(line) ? (page.chosen(state, "b.")?.record.opens ?? "").split("\n") : [];
  const lines = [...opens, ...other.map((one) => one.replace(/^(# )?record\b/, "$1other"))].filter((one) => one);
  return [...new Set(lines), line].join("\n");
}

/**
 * A text that can be selected, and a button that copies it; where that is not allowed, the text is selected.
 * @param {Page} page
 * @param {string} title
 * @param {Promise<string>} coming
 * @returns {HTMLElement}
 */
function takingField(page, title, coming) {
  const field = h("textarea", { readOnly: true, rows: 2, "aria-label": title, "aria-busy": "true", spellcheck: false });
  const said = h("span", { role: "status" });
  coming.then(
    (text) => {
      field.value = text;
      field.rows = Math.min(text.split("\n").length + 1, 6);
      field.setSelectionRange(0, 0); // else a browser shows its end
      field.setAttribute("aria-busy", "false");
    },
    (error) => (said.textContent = `no text: ${error instanceof Error ? error.message : error}`),
  );
  const copy = async () => {
    const text = await coming;
    field.select();
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "copied";
    } catch {
      said.textContent = "selected: copy it with Ctrl+C";
    }
    page.announce(said.textContent);
  };
  return h("div", { class: "pl-taking" }, h("p", {}, title), field, h("div", { class: "pl-row" }, h("button", { type: "button", onclick: copy }, "Copy"), said));
}

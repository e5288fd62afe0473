// A button that opens a panel of its own below it: closed by Escape, by a click elsewhere, by leaving it with Tab.

import { fill, h } from "./dom.js";

/**
 * @typedef {{element: HTMLElement, button: HTMLButtonElement, close: () => void}} Menu
 */

/**
 * @param {string} label
 * @param {string} title
 * @param {(close: () => void) => HTMLElement} content made anew each time that it is opened
 * @returns {Menu}
 */
export function menu(label, title, content) {
  const panel = h("div", { class: "pl-menu-panel", hidden: true });
  const button = h("button", { type: "button", title, "aria-expanded": "false", "aria-haspopup": "true", onclick: () => (panel.hidden ? open() : close()) }, label);
  const element = h("div", { class: "pl-menu", onkeydown: escaped, onfocusout: left }, button, panel);
  const outside = (/** @type {Event} */ event) => {
    if (!event.composedPath().includes(element)) close();
  };
  function open() {
    fill(panel, content(close));
    panel.hidden = false;
    button.setAttribute("aria-expanded", "true");
    holdWithin(panel);
    document.addEventListener("pointerdown", outside, true);
    const first = panel.querySelector("input:not([type=checkbox]), button, select, textarea");
    if (first instanceof HTMLElement) first.focus();
  }
  function close() {
    if (panel.hidden) return;
    const within = panel.contains(panel.ownerDocument.activeElement);
    panel.hidden = true;
    button.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", outside, true);
    if (within) button.focus();
  }
  /** @param {KeyboardEvent} event */
  function escaped(event) {
    if (event.key !== "Escape" || panel.hidden) return;
    event.preventDefault();
    close();
    button.focus();
  }
  /** @param {FocusEvent} event */
  function left(event) {
    if (event.relatedTarget instanceof Node && !element.contains(event.relatedTarget)) close();
  }
  return { element, button, close };
}

/**
 * Shift what has opened below its button so that neither side of it is cut off by the page's.
 * @param {HTMLElement} panel
 */
export function holdWithin(panel) {
  const root = panel.closest(".pellucid");
  if (!root) return;
  panel.style.translate = "none";
  const [page, box] = [root.getBoundingClientRect(), panel.getBoundingClientRect()];
  const edge = 6; // pixels
  const past = Math.min(0, page.right - edge - box.right);
  panel.style.translate = `${Math.max(past, page.left + edge - box.left)}px`;
}

// Views that a person wants to find again, by name, kept by the browser for each record.

import { fill, h } from "./dom.js";
import { headsAsTyped, plainName } from "./choices.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {{name: string, state: Record<string, string>}} Bookmark
 */

/** Bookmarks of one record; where the browser keeps nothing, of this visit alone. */
export class Bookmarks {
  /** @param {string} title of the record @param {Storage | null} storage */
  constructor(title, storage) {
    this.key = `pellucid bookmarks ${title}`;
    this.storage = storage;
    this.lasting = storage !== null;
    this.list = this.read();
  }

  /** @returns {Bookmark[]} */
  read() {
    try {
      const found = JSON.parse(this.storage?.getItem(this.key) ?? "[]");
      return Array.isArray(found) ? found.filter(isBookmark) : [];
    } catch {
      return [];
    }
  }

  /** @param {Bookmark[]} list */
  write(list) {
    this.list = list;
    try {
      this.storage?.setItem(this.key, JSON.stringify(list));
    } catch {
      this.lasting = false;
    }
  }

  /** @param {string} name @param {Record<string, string>} state */
  add(name, state) {
    this.write([...this.list.filter((one) => one.name !== name), { name, state: { ...state } }]);
  }

  /** @param {string} name */
  remove(name) {
    this.write(this.list.filter((one) => one.name !== name));
  }
}

/**
 * @param {any} value
 * @returns {boolean}
 */
function isBookmark(value) {
  return typeof value?.name === "string" && typeof value.state === "object" && value.state !== null && Object.values(value.state).every((one) => typeof one === "string");
}

/**
 * @returns {Storage | null}
 */
export function browserStorage() {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}

/**
 * Show a state in the place of another: what it does not say goes back to its default.
 * @param {Page} page
 * @param {Record<string, string>} state
 */
export function restoreState(page, state) {
  const none = Object.fromEntries(Object.keys(page.state.state).map((name) => [name, null]));
  page.state.set({ ...none, ...state });
}

/**
 * The panel that lists, adds and removes them.
 * @param {Page} page
 * @param {Bookmarks} bookmarks
 * @param {string} viewTitle
 * @param {() => void} close
 * @returns {HTMLElement}
 */
export function bookmarkPanel(page, bookmarks, viewTitle, close) {
  const name = h("input", { type: "text", "aria-label": "name of this view", value: bookmarkName(page, viewTitle), maxLength: 200 });
  const list = h("ul", { class: "pl-bookmarks" });
  const note = h("p", { class: "pl-faint" });
  const add = (/** @type {Event} */ event) => {
    event.preventDefault();
    bookmarks.add(name.value.trim() || viewTitle, page.state.state);
    page.announce("bookmark kept");
    show();
  };
  const show = () => {
    fill(list, bookmarks.list.map((one) => entry(one)));
    note.textContent = bookmarks.lasting
      ? "This browser keeps them for this address: with pellucid view --port N it is the same the next time."
      : "This browser keeps nothing here: they last as long as this page.";
  };
  const entry = (/** @type {Bookmark} */ one) =>
    h(
      "li",
      {},
      h("button", { type: "button", class: "pl-bookmark", onclick: () => (close(), restoreState(page, one.state)) }, plainName(one.name, 60)),
      h("button", { type: "button", class: "pl-step", "aria-label": `remove ${plainName(one.name, 60)}`, onclick: () => (bookmarks.remove(one.name), show()) }, "×"),
    );
  show();
  return h("div", {}, h("form", { class: "pl-row", onsubmit: add }, name, h("button", { type: "submit" }, "Keep this view")), list, note);
}

/**
 * @param {Page} page
 * @param {string} viewTitle
 * @returns {string}
 */
function bookmarkName(page, viewTitle) {
  const chosen = page.chosen(page.state.state);
  if (!chosen || viewTitle === "Heads") return viewTitle;
  const range = page.state.get("q") || page.state.get("k") ? `, ${page.state.get("q", "all")} × ${page.state.get("k", "all")}` : "";
  return `${viewTitle}, layer ${chosen.layer.number}, head ${headsAsTyped(chosen.heads, chosen.layer)}${range}`;
}

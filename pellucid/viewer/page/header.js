// The header: what is looked at, where else one can look, and what can be taken along.

import { fill, h } from "./dom.js";
import { VIEWS } from "./app.js";
import { bookmarkPanel, Bookmarks, browserStorage } from "./bookmarks.js";
import { plainName } from "./choices.js";
import { helpDialog } from "./help.js";
import { ownsWindow } from "./keys.js";
import { menu } from "./menu.js";
import { headPicker, layerPicker, recordPicker, sequencePicker } from "./pickers.js";
import { copyPanel, picturePanel } from "./taking.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./app.js").View} View
 * @typedef {import("./state.js").State} State
 */

/**
 * @param {Page} page
 */
export function pageHeader(page) {
  /** @type {{name: string, view: View | null}} */
  const shown = { name: "", view: null };
  const pickers = [recordPicker(page), layerPicker(page), headPicker(page), sequencePicker(page)];
  const tabs = headerTabs(page);
  const tools = headerTools(page, shown);
  const more = h("button", { type: "button", class: "pl-more", "aria-expanded": "false", onclick: () => toggle() }, "Menu");
  const element = h(
    "header",
    { class: "pl-header" },
    h("div", { class: "pl-brand" }, h(ownsWindow(page.root) ? "h1" : "strong", { class: "pl-name" }, "Pellucid"), more),
    h("div", { class: "pl-pickers", role: "group", "aria-label": "what is looked at" }, pickers.map((picker) => picker.element)),
    tabs.element,
    tools.element,
  );
  function toggle() {
    const open = element.classList.toggle("pl-open");
    more.setAttribute("aria-expanded", String(open));
  }
  return {
    element,
    help: tools.help,
    /** @param {string} name @param {View} view */
    shows(name, view) {
      shown.name = name;
      shown.view = view;
    },
    update() {
      const chosen = page.chosen(page.state.state);
      for (const picker of pickers) picker.update(chosen);
      tabs.update(shown.name);
      tools.update();
    },
    destroy() {
      for (const picker of pickers) picker.close?.();
      tools.destroy();
    },
  };
}

/** @param {Page} page */
function headerTabs(page) {
  const element = h("nav", { class: "pl-tabs", "aria-label": "views" });
  let made = "";
  return {
    element,
    /** @param {string} shown */
    update(shown) {
      const chosen = page.chosen(page.state.state);
      const names = Object.keys(VIEWS).filter((name) => VIEWS[name].fits(chosen));
      if (names.join() !== made) {
        fill(element, names.map((name) => h("button", { type: "button", "data-view": name, onclick: () => page.state.set({ view: name }) }, VIEWS[name].title)));
        made = names.join();
      }
      for (const tab of element.children) {
        if (tab.getAttribute("data-view") === shown) tab.setAttribute("aria-current", "page");
        else tab.removeAttribute("aria-current");
      }
    },
  };
}

/**
 * @param {Page} page
 * @param {{name: string, view: View | null}} shown
 */
function headerTools(page, shown) {
  /** @type {Map<string, Bookmarks>} */
  const kept = new Map();
  const bookmarks = () => {
    const title = page.record(page.state.state)?.title ?? "";
    if (!kept.has(title)) kept.set(title, new Bookmarks(title, browserStorage()));
    return /** @type {Bookmarks} */ (kept.get(title));
  };
  const menus = [
    menu("Save picture", "this view as PNG or SVG", (close) => picturePanel(page, shown.view, close)),
    menu("Copy", "this view as a line of Python, or its address", () => copyPanel(page, shown.view)),
    menu("Bookmarks", "views kept by name", (close) => bookmarkPanel(page, bookmarks(), VIEWS[shown.name]?.title ?? "", close)),
  ];
  const theme = h(
    "select",
    { "aria-label": "light or dark", title: "light or dark", onchange: () => page.state.set({ theme: theme.value || null }) },
    [["", "System"], ["light", "Light"], ["dark", "Dark"]].map(([value, text]) => h("option", { value }, text)),
  );
  const dialog = helpDialog();
  const help = () => dialog.open || dialog.showModal();
  const question = h("button", { type: "button", "aria-label": "help: keys and how to read", title: "help (?)", onclick: help }, "?");
  return {
    element: h("div", { class: "pl-header-tools", role: "group", "aria-label": "take along, theme, help" }, menus.map((one) => one.element), theme, question, dialog),
    help,
    update() {
      theme.value = page.state.get("theme");
    },
    destroy() {
      for (const one of menus) one.close();
    },
  };
}

/**
 * The title of a window that shows the page alone.
 * @param {Page} page
 * @param {string} view
 * @returns {string}
 */
export function pageTitle(page, view) {
  const chosen = page.chosen(page.state.state);
  const title = page.info.lesson?.title ?? page.record(page.state.state)?.title ?? "";
  const place = chosen && view !== "heads" ? `, layer ${chosen.layer.number}` : "";
  return `${VIEWS[view]?.title ?? ""}${place} · ${plainName(title, 60)} · Pellucid`;
}

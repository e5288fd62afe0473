// The shell around the views: what they share, and which of them is shown.

import { Client, Refusal } from "./client.js";
import { fill, h } from "./dom.js";
import { followInfo } from "./following.js";
import { pageHeader, pageTitle } from "./header.js";
import { listenKeys, ownsWindow } from "./keys.js";
import { lessonPanel } from "./lesson.js";
import { pageNotices } from "./notices.js";
import { stepHead, stepLayer } from "./pickers.js";
import { numbersOf, ViewState } from "./state.js";
import { headsView } from "./heads.js";
import { mapView } from "./map.js";
import { textView } from "./text.js";
import { crossView } from "./cross.js";
import { imageView } from "./image.js";
import { compareView } from "./compare.js";

/**
 * @typedef {import("./client.js").Info} Info
 * @typedef {import("./client.js").RecordInfo} RecordInfo
 * @typedef {import("./client.js").LayerInfo} LayerInfo
 * @typedef {import("./client.js").Tokens} Tokens
 * @typedef {import("./client.js").Numbers} Numbers
 * @typedef {import("./state.js").State} State
 * @typedef {{blob: Blob, name: string}} Picture
 * @typedef {{element: HTMLElement, update: (state: State, changed: Set<string>) => void, destroy: () => void,
 *   picture?: (kind: "png" | "svg") => Promise<Picture>, python?: () => string | Promise<string>}} View
 * @typedef {{record: RecordInfo, layer: LayerInfo, heads: number[], sequence: number, place: import("./client.js").Place}} Chosen
 */

/** The views by the word that the address has for them, in the order of their tabs. */
export const VIEWS = /** @type {Record<string, {title: string, make: (page: Page) => View, fits: (chosen: Chosen | null) => boolean}>} */ ({
  heads: { title: "Heads", make: headsView, fits: () => true },
  map: { title: "Map", make: mapView, fits: (chosen) => chosen !== null },
  text: { title: "Text", make: textView, fits: (chosen) => chosen !== null },
  cross: { title: "Two texts", make: crossView, fits: (chosen) => chosen?.layer.role === "cross" },
  image: { title: "Image", make: imageView, fits: (chosen) => (chosen?.record.images.length ?? 0) > 0 },
  compare: { title: "Compare", make: compareView, fits: (chosen) => chosen !== null },
});

/** What every view is given. */
export class Page {
  /**
   * @param {HTMLElement} root
   * @param {Client} client
   * @param {Info} info
   * @param {ViewState} state
   */
  constructor(root, client, info, state) {
    this.root = root;
    this.client = client;
    this.info = info;
    this.state = state;
    this.live = h("div", { class: "pl-live", role: "status", "aria-live": "polite" });
    /** @type {Map<string, Promise<any>>} */
    this.kept = new Map();
  }

  /** Say to a screen reader what has changed. @param {string} text */
  announce(text) {
    this.live.textContent = text;
  }

  /**
   * @param {string} record
   * @param {number} sequence
   * @returns {Promise<Tokens>}
   */
  tokens(record, sequence) {
    return this.once(`tokens ${record} ${sequence}`, () => this.client.tokens(record, sequence));
  }

  /**
   * @param {string} record
   * @returns {Promise<Numbers>}
   */
  numbers(record) {
    return this.once(`numbers ${record}`, () => this.client.numbers(record));
  }

  /**
   * Ask once and keep the answer; a failure is asked again.
   * @template T
   * @param {string} name
   * @param {() => Promise<T>} ask
   * @returns {Promise<T>}
   */
  once(name, ask) {
    if (!this.kept.has(name)) {
      const asked = ask();
      this.kept.set(name, asked);
      asked.catch(() => this.kept.delete(name));
    }
    return /** @type {Promise<T>} */ (this.kept.get(name));
  }

  /**
   * The record that the state names, or the first; undefined where there is none.
   * @param {State} state
   * @returns {RecordInfo | undefined}
   */
  record(state) {
    return this.info.records.find((one) => one.id === state.record) ?? this.info.records[0];
  }

  /**
   * The record, layer and heads that the state names, or the nearest there are; null where a record has no layer.
   * @param {State} state
   * @param {string} [prefix] "b." for what is compared with
   * @returns {Chosen | null}
   */
  chosen(state, prefix = "") {
    const given = (/** @type {string} */ name) => state[prefix + name] ?? (prefix ? state[name] : undefined);
    const record = this.info.records.find((one) => one.id === given("record")) ?? this.info.records[0];
    if (!record?.layers.length) return null;
    const layer = record.layers[Number(given("layer") ?? -1)] ?? record.layers[record.layers.length - 1];
    const named = [...new Set(numbersOf(given("heads")))].filter((head) => head < layer.heads);
    const heads = named.length ? named : [...Array(layer.heads).keys()];
    const sequence = Math.min(numbersOf(given("sequence"))[0] ?? 0, Math.max(layer.batch - 1, 0));
    const place = {
      record: record.id,
      layer: layer.number,
      heads: named.length ? named.join(",") : "all",
      over: state.over === "max" ? "max" : "mean",
      pool: state.pool === "max" ? "max" : "mean",
      sequence,
    };
    return { record, layer, heads, sequence, place };
  }
}

/**
 * Show the page in an element. Returns what takes it away again.
 * @param {HTMLElement} root
 * @param {Client} client
 * @param {ViewState} state
 * @returns {Promise<() => void>}
 */
export async function openPage(root, client, state) {
  root.classList.add("pellucid");
  let info;
  try {
    info = await client.info();
  } catch (error) {
    fill(root, h("p", { class: "pl-error", role: "alert" }, error instanceof Refusal ? error.message : String(error)));
    throw error;
  }
  return showPage(new Page(root, client, info, state));
}

/**
 * @param {Page} page
 * @returns {() => void} takes it away again
 */
function showPage(page) {
  const { root, state } = page;
  const body = h("main", { class: "pl-view", tabIndex: -1, "aria-label": "view" });
  const header = pageHeader(page);
  const notices = pageNotices(page);
  const lesson = page.info.lesson ? lessonPanel(page, page.info.lesson) : null;
  const skip = h("button", { type: "button", class: "pl-skip", onclick: () => body.focus() }, "Skip to the view");
  fill(root, skip, header.element, notices.element, h("div", { class: "pl-middle" }, body, lesson?.element), page.live);
  /** @type {View | null} */
  let view = null;
  let shown = "";
  const show = (/** @type {State} */ current, /** @type {Set<string>} */ changed) => {
    setTheme(root, current);
    const chosen = page.chosen(current);
    const name = Object.hasOwn(VIEWS, current.view ?? "") && VIEWS[current.view].fits(chosen) ? current.view : "heads";
    if (name !== shown) {
      view?.destroy();
      shown = name;
      view = VIEWS[name].make(page);
      fill(body, view.element);
      header.shows(name, view);
    }
    header.update();
    notices.update();
    lesson?.update();
    if (ownsWindow(root)) document.title = pageTitle(page, name);
    view?.update(current, changed);
  };
  const changed = (/** @type {boolean} */ anew) => {
    if (anew) shown = "";
    show(state.state, new Set(["info"]));
    if (anew) page.announce("the record has changed, and is shown as it is now");
  };
  const releases = [
    state.subscribe(show),
    followInfo(page, { changed, serving: notices.serving }),
    listenKeys(root, (event) => pressed(page, event, { help: header.help, lesson })),
    () => view?.destroy(),
    header.destroy,
    () => state.release?.(),
    () => fill(root),
  ];
  lesson?.start();
  show(state.state, new Set(Object.keys(state.state)));
  return () => releases.forEach((release) => release());
}

/**
 * The keys that mean the same in every view.
 * @param {Page} page
 * @param {KeyboardEvent} event
 * @param {{help: () => void, lesson: {go: (by: 1 | -1) => void} | null}} shell
 */
function pressed(page, event, shell) {
  const does = /** @type {Record<string, () => void>} */ ({
    "?": shell.help,
    "[": () => stepHead(page, -1),
    "]": () => stepHead(page, 1),
    "{": () => stepLayer(page, -1),
    "}": () => stepLayer(page, 1),
    ",": () => shell.lesson?.go(-1),
    ".": () => shell.lesson?.go(1),
  });
  if (!(event.key in does)) return;
  event.preventDefault();
  does[event.key]();
}

/**
 * @param {HTMLElement} root
 * @param {State} state
 */
function setTheme(root, state) {
  if (state.theme === "light" || state.theme === "dark") root.dataset.theme = state.theme;
  else delete root.dataset.theme;
}

/**
 * Whether the page is dark now.
 * @param {HTMLElement} root
 * @returns {boolean}
 */
export function isDark(root) {
  if (root.dataset.theme) return root.dataset.theme === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

// The page of a profile: the heads as a table and as points of any two numbers, and the one that is open in full.

import { Refusal } from "./client.js";
import { fill, h } from "./dom.js";
import { plainName } from "./choices.js";
import { filtersChips, filtersList, filtersSink, filtersSort } from "./headfilters.js";
import { countsOf, headsChoice, headsOf, kindOf, numberOf, numberTitle, shownNumber } from "./headmodel.js";
import { headTable } from "./headtable.js";
import { KIND_MEANS, kindBadge, KINDS } from "./kinds.js";
import { ProfileHead } from "./profilehead.js";
import { profileNotes, profileNumbers, profileStatistic, profileSummary } from "./profilemodel.js";
import { Scatter } from "./scatter.js";

/**
 * @typedef {import("./client.js").Client} Client
 * @typedef {import("./headmodel.js").Head} Head
 * @typedef {import("./profilemodel.js").Profile} Profile
 * @typedef {import("./state.js").ViewState} ViewState
 */

/**
 * Show a profile in an element.
 * @param {HTMLElement} root
 * @param {Client} client
 * @param {ViewState} state
 */
export async function openProfile(root, client, state) {
  root.classList.add("pellucid");
  try {
    const page = new ProfilePage(root, client, state, await client.json("api/profile", {}));
    state.subscribe(() => page.update());
    page.update();
  } catch (error) {
    fill(root, h("p", { class: "pl-error", role: "alert" }, error instanceof Refusal ? error.message : String(error)));
    throw error;
  }
}

class ProfilePage {
  /**
   * @param {HTMLElement} root
   * @param {Client} client
   * @param {ViewState} state
   * @param {Profile} profile
   */
  constructor(root, client, state, profile) {
    this.root = root;
    this.state = state;
    this.profile = profile;
    const ask = (/** @type {string} */ path, /** @type {Record<string, string | number>} */ query) => client.json(path, query);
    const set = (/** @type {Record<string, string | null>} */ patch) => state.set(patch);
    const open = (/** @type {Head} */ head) => state.set({ head: head.id });
    this.scatter = new Scatter({ open, hover: (head, at) => this.hover(head, at), set });
    this.table = headTable(/** @type {any} */ (this), open);
    this.head = new ProfileHead({ ask, set, title: (number) => profileTitle(profile, number) });
    this.card = h("div", { class: "pl-head-card", "aria-hidden": "true", hidden: true });
    this.toolbar = h("div", { class: "pl-toolbar", role: "toolbar", "aria-label": "heads" });
    this.how = h("div", { class: "pl-heads-how" }, profileHow());
    this.side = h("details", { class: "pl-heads-side", open: true }, h("summary", {}, "Scatter"), this.scatter.element, this.how);
    this.main = h("div", { class: "pl-heads-main" }, profile.layers.length ? null : h("p", {}, "No document was read, so nothing is known of any head."), this.table.element, this.head.element);
    const scroll = h("div", { class: "pl-heads-scroll" }, this.main, this.side);
    this.view = h("div", { class: "pl-heads pl-profile" }, this.toolbar, scroll, this.card);
    this.view.addEventListener("scroll", () => (this.card.hidden = true), true);
    fill(root, this.header(), profileNoted(profile), h("div", { class: "pl-middle" }, h("main", { class: "pl-view", "aria-label": "view" }, this.view)));
    /** @type {Head[]} */
    this.heads = [];
    this.opened = "";
    this.made = "";
    this.ready = false;
    this.width = 0;
    new ResizeObserver(() => this.scatter.drawing.clientWidth === this.width || this.plot()).observe(this.scatter.drawing);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.plot());
  }

  header() {
    const { profile, state } = this;
    const theme = h("select", { "aria-label": "light or dark", title: "light or dark", onchange: () => state.set({ theme: theme.value || null }) }, [["", "System"], ["light", "Light"], ["dark", "Dark"]].map(([value, text]) => h("option", { value }, text)));
    this.theme = theme;
    return h(
      "header",
      { class: "pl-header" },
      h("div", { class: "pl-brand" }, h("h1", { class: "pl-name" }, "Pellucid")),
      h("span", { class: "pl-record-name" }, plainName(profile.title, 60)),
      h("span", { class: "pl-faint" }, profileSummary(profile)),
      h("div", { class: "pl-profile-theme" }, theme),
    );
  }

  /** Everything, as the state has it. */
  update() {
    const { state, profile } = this;
    const theme = state.get("theme");
    if (theme === "light" || theme === "dark") this.root.dataset.theme = theme;
    else delete this.root.dataset.theme;
    if (this.theme) this.theme.value = theme;
    this.statistic = profileStatistic(profile, state.get("stat"));
    this.numbers = profileNumbers(profile, this.statistic);
    this.heads = headsOf(/** @type {any} */ (profile), this.numbers);
    this.choice = headsChoice(state.state, this.numbers);
    this.card.hidden = true;
    const head = this.heads.find((one) => one.id === state.get("head"));
    this.table.element.hidden = head !== undefined;
    this.head.element.hidden = head === undefined;
    this.how.hidden = head !== undefined;
    this.filters();
    if (!head) this.table.update(this.heads, this.choice, this.numbers);
    else this.head.show(head, { number: state.get("number"), list: state.get("list") });
    this.plot();
    this.reveal(head?.id ?? "");
    document.title = `${head ? `layer ${head.layer.number}, head ${head.number}` : "Heads"} · ${plainName(profile.title, 60)} · Pellucid`;
  }

  /** Bring a head that was just opened into sight. @param {string} id */
  reveal(id) {
    if (id !== this.opened) {
      if (id) this.head.element.scrollIntoView({ block: "start" });
      if (id && this.ready) this.head.element.focus({ preventScroll: true });
    }
    this.opened = id;
    this.ready = true;
  }

  plot() {
    if (!this.numbers || !this.choice || !this.scatter.drawing.clientWidth) return;
    this.width = this.scatter.drawing.clientWidth;
    const style = getComputedStyle(this.root);
    const [text, faint, line, back] = ["text", "faint", "line", "back"].map((name) => style.getPropertyValue(`--pl-${name}`).trim());
    this.scatter.update(this.heads, this.choice, this.numbers, { text, faint, line, back });
    this.scatter.mark(this.state.get("head"));
  }

  /** The toolbar, made again where it would be another. */
  filters() {
    const { state, choice, numbers, heads } = this;
    if (!choice || !numbers) return;
    const text = JSON.stringify([choice.sort, choice.ascending, choice.sink, state.get("kinds"), state.get("roles"), this.statistic]);
    if (text === this.made) return;
    const first = !this.made;
    this.made = text;
    const focus = this.toolbar.contains(document.activeElement) ? document.activeElement?.getAttribute("data-name") : null;
    const page = /** @type {any} */ (this);
    fill(
      this.toolbar,
      filtersList(page, "stat", "numbers are", Object.keys(this.profile.statistics).map((name, at) => [at ? name : "", name]), state.get("stat")),
      filtersSort(page, choice, numbers),
      filtersSink(page, choice),
      filtersChips(page, "kinds", KINDS, countsOf(heads, (head) => kindOf(numbers, head, choice.sink).kind), choice.kinds),
      filtersChips(page, "roles", ["self", "causal self", "cross"], countsOf(heads, (head) => head.layer.role), choice.roles),
    );
    if (!first && focus) for (const one of this.toolbar.querySelectorAll("[data-name]")) if (one.getAttribute("data-name") === focus && one instanceof HTMLElement) one.focus();
  }

  /** @param {Head | null} head @param {DOMRect | null} at */
  hover(head, at) {
    const { numbers, choice, card } = this;
    card.hidden = !head || !at || !numbers || !choice;
    if (!head || !at || !numbers || !choice) {
      this.scatter.mark(this.state.get("head"));
      return;
    }
    const kinds = /** @type {const} */ (["without", "with"]).map((sink) => h("p", {}, sink === "without" ? "beyond the sink: " : "as a whole: ", h("b", {}, kindOf(numbers, head, sink).kind), `, ${kindOf(numbers, head, sink).because}`));
    const rows = [...new Set([choice.x, choice.y, choice.size])].filter(Boolean).map((name) => h("p", {}, `${numberTitle(numbers, name, choice.sink)}: `, h("b", {}, shownNumber(numberOf(numbers, head, name, choice.sink)))));
    fill(card, h("div", { class: "pl-row" }, h("b", {}, `layer ${head.layer.number} · head ${head.number}`), kindBadge(kindOf(numbers, head, choice.sink).kind)), kinds, rows);
    const box = this.view.getBoundingClientRect();
    const left = Math.min(Math.max(at.left - box.left, 4), Math.max(box.width - card.offsetWidth - 4, 4));
    const below = at.bottom + 10 - box.top;
    const top = below + card.offsetHeight <= box.height ? below : Math.max(at.top - 10 - card.offsetHeight - box.top, 4);
    Object.assign(card.style, { left: `${left}px`, top: `${top}px` });
  }
}

/** @param {Profile} profile @param {string} number */
function profileTitle(profile, number) {
  const name = number.replace(/_without_sink$/, "");
  const title = profile.numbers.titles[name] ?? name;
  return name === number ? title : `${title}, without the sink`;
}

/** @param {Profile} profile */
function profileNoted(profile) {
  const notes = profileNotes(profile);
  return h("div", { class: "pl-notices", role: "note" }, notes.length ? h("div", { class: "pl-notes" }, notes.map((note) => h("p", {}, note))) : null);
}

/** How to read the page. */
function profileHow() {
  return [
    h("h2", {}, "How to read it"),
    h("p", {}, "Every number of a head has a value in each document; points and columns show its mean over the documents, or another statistic. Click a head for its distributions, and for the documents, queries and keys in which it does most, with their text."),
    h("p", {}, "A head's kind is the one that it has in most documents, with the share of the documents and the interval in which that share lies with a confidence of 95 %."),
    h("ul", { class: "pl-heads-kinds" }, KINDS.map((kind) => h("li", {}, kindBadge(kind), ` ${kind}: ${KIND_MEANS[kind]}`))),
  ];
}

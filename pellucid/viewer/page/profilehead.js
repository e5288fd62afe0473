// One head over a corpus: its kinds, each number's distribution, where its weight goes, and where it does most.

import { Refusal } from "./client.js";
import { fill, h } from "./dom.js";
import { plainName } from "./choices.js";
import { shownNumber } from "./headmodel.js";
import { kindBadge, kindLook, KINDS } from "./kinds.js";
import { histogramChart, massChart, positionChart, sparkChart } from "./profilecharts.js";
import { inPercent, inThousands } from "./profilemodel.js";
import { exampleText } from "./profiletext.js";

/**
 * @typedef {import("./headmodel.js").Head} Head
 * @typedef {import("./profilemodel.js").ProfiledHead} ProfiledHead
 * @typedef {import("./profilemodel.js").CorpusKind} CorpusKind
 * @typedef {import("./profilemodel.js").Example} Example
 * @typedef {{ask: (path: string, query: Record<string, string | number>) => Promise<any>, set: (patch: Record<string, string | null>) => void,
 *   title: (number: string) => string}} HeadTold
 */

const exampleLists = /** @type {[string, string][]} */ ([["queries", "strongest queries"], ["documents", "documents with most"], ["keys", "keys that receive most"], ["sequences", "sequences"]]);
const exampleNotes = /** @type {Record<string, string>} */ ({
  queries: "the queries that have most of this number, one a document",
  documents: "the documents that have most of this number, each at its strongest query",
  keys: "the keys that receive most of this head, one a document",
  sequences: "stretches of 48 queries that put most beyond the sink, one a document: each key is shaded by the most that any of them gives it",
});

/** What is shown of the head that is open. */
export class ProfileHead {
  /** @param {HeadTold} told */
  constructor(told) {
    this.told = told;
    this.element = h("section", { class: "pl-profiled", "aria-label": "one head", tabIndex: -1 });
    this.open = "";
    this.asked = 0;
    /** @type {ProfiledHead | null} */
    this.head = null;
  }

  /**
   * @param {Head} head
   * @param {{number: string, list: string}} choice
   */
  async show(head, choice) {
    const asked = ++this.asked;
    if (this.open !== head.id) {
      this.open = head.id;
      this.head = null;
      fill(this.element, this.heading(head), h("p", { class: "pl-faint", role: "status" }, "…"));
    }
    try {
      this.head ??= await this.told.ask("api/head", { head: head.at });
      if (asked === this.asked) this.build(head, /** @type {ProfiledHead} */ (this.head), choice);
    } catch (error) {
      if (asked === this.asked) fill(this.element, this.heading(head), refusalText(error));
    }
  }

  /** @param {Head} head */
  heading(head) {
    const back = h("button", { type: "button", onclick: () => this.told.set({ head: null }) }, "← All heads");
    const names = h("p", { class: "pl-faint" }, `${plainName(head.layer.name, 100)} · ${head.layer.role}`);
    return h("div", { class: "pl-profiled-heading" }, back, h("h2", {}, `layer ${head.layer.number} · head ${head.number}`), names);
  }

  /**
   * @param {Head} head
   * @param {ProfiledHead} told
   * @param {{number: string, list: string}} choice
   */
  build(head, told, choice) {
    const number = choice.number in told.numbers && told.numbers[choice.number].documents ? choice.number : told.telling;
    const list = exampleLists.some(([name]) => name === choice.list) ? choice.list : number.startsWith("concentration") ? "documents" : "queries";
    const focused = this.element.contains(document.activeElement) ? document.activeElement?.getAttribute("data-name") : null;
    const tall = this.element.querySelector(".pl-examples")?.clientHeight ?? 0; // what is below stays where it is
    const examples = h("div", { class: "pl-examples", style: { minHeight: `${tall}px` } });
    const distribution = h("div", { class: "pl-distribution" }, h("h3", {}, this.told.title(number)));
    fill(this.element, this.heading(head), kindsShown(told.kinds), distribution, this.numbers(told, number), this.examplesOf(number, list, examples), whereShown(told));
    const spread = told.numbers[number];
    if (spread.documents) distribution.append(histogramChart(spread, this.told.title(number), Math.max(260, Math.min(this.element.clientWidth - 20, 640))), h("p", { class: "pl-faint" }, `${inThousands(spread.documents)} documents; below the axis the median in the box of half of them, nine tenths on the line, and the mean as a point`));
    else distribution.append(h("p", { class: "pl-faint" }, "no document has this number"));
    if (focused) for (const one of this.element.querySelectorAll("[data-name]")) if (one.getAttribute("data-name") === focused && one instanceof HTMLElement) one.focus();
    this.fillExamples(head, told, number, list, examples);
  }

  /**
   * The table of all numbers, each of which can be chosen.
   * @param {ProfiledHead} told
   * @param {string} chosen
   */
  numbers(told, chosen) {
    const rows = Object.entries(told.numbers).filter(([, one]) => one.documents).map(([name, one]) => {
      const pick = h("button", { type: "button", class: "pl-link", "data-name": name, title: this.told.title(name), "aria-pressed": String(name === chosen), onclick: () => this.told.set({ number: name }) }, name.replaceAll("_", " "));
      const values = [one.mean, one.spread, one.quantiles["0.05"], one.quantiles["0.5"], one.quantiles["0.95"]];
      return h("tr", {}, h("th", { scope: "row" }, pick), values.map((value) => h("td", {}, shownNumber(value))), h("td", { class: "pl-wide" }, sparkChart(one)));
    });
    const headings = ["number", "mean", "spread", "5 %", "median", "95 %", "histogram"].map((text) => h("th", { scope: "col", title: text === "spread" ? "standard deviation over the documents" : "" }, text));
    return h("div", { class: "pl-head-table" }, h("table", {}, h("caption", {}, "every number over the documents; choose one"), h("thead", {}, h("tr", {}, headings)), h("tbody", {}, rows)));
  }

  /**
   * @param {string} number
   * @param {string} list
   * @param {HTMLElement} examples
   */
  examplesOf(number, list, examples) {
    const tabs = exampleLists.map(([name, text]) => h("button", { type: "button", "data-name": `list ${name}`, "aria-pressed": String(name === list), onclick: () => this.told.set({ list: name }) }, text));
    const of = ["queries", "documents"].includes(list) ? `: ${number.replaceAll("_", " ")}` : "";
    return h("div", {}, h("h3", {}, "Strongest"), h("div", { class: "pl-row", role: "group", "aria-label": "strongest" }, tabs), h("p", { class: "pl-faint" }, exampleNotes[list] + of), examples);
  }

  /**
   * @param {Head} head
   * @param {ProfiledHead} told
   * @param {string} number
   * @param {string} list
   * @param {HTMLElement} element
   */
  async fillExamples(head, told, number, list, element) {
    try {
      const found = /** @type {Example[]} */ (list === "keys" || list === "sequences" ? told[list] : (await this.told.ask("api/examples", { head: head.at, number }))[list]);
      fill(element, found.length ? h("ol", {}, found.map((one) => exampleText(one, exampleValue(list, this.told.title(number))))) : h("p", { class: "pl-faint" }, list === "queries" && number.startsWith("concentration") ? "none: it is a number of a whole document, and no query has it" : "none were kept"));
    } catch (error) {
      fill(element, refusalText(error));
    }
    element.style.minHeight = "";
  }
}

/**
 * What the value of an example is.
 * @param {string} list
 * @param {string} title of the number
 */
function exampleValue(list, title) {
  if (list === "keys") return "weight received, of all queries together";
  return list === "sequences" ? "weight beyond the sink, of 48 queries together" : title;
}

/** @param {unknown} error */
function refusalText(error) {
  return h("p", { class: "pl-faint", role: "alert" }, error instanceof Refusal ? error.message : String(error));
}

/** @param {{with: CorpusKind, without: CorpusKind}} kinds */
function kindsShown(kinds) {
  return h("div", { class: "pl-profiled-kinds" }, kindShares("beyond the sink", kinds.without), kindShares("as a whole", kinds.with));
}

/**
 * The kinds that a head has in the documents, as shares of a bar.
 * @param {string} where
 * @param {CorpusKind} kind
 */
function kindShares(where, kind) {
  const shares = KINDS.filter((name) => kind.counts[name]);
  const all = shares.reduce((sum, name) => sum + kind.counts[name], 0);
  const bar = shares.map((name) => h("span", { class: "pl-kind-share", title: `${name}: ${inThousands(kind.counts[name])} documents`, style: { width: `${(100 * kind.counts[name]) / all}%`, background: kindLook(name).colour } }));
  return h("div", {}, h("p", {}, `${where}: `, kindBadge(kind.name), " ", h("b", {}, kind.name), kindSaid(kind)), h("div", { class: "pl-kind-shares", role: "img", "aria-label": shares.map((name) => `${name} ${kind.counts[name]}`).join(", ") }, bar));
}

/** @param {CorpusKind} kind */
function kindSaid(kind) {
  if (!kind.documents) return ": no document tells";
  const then = kind.second === null ? "" : `, then ${kind.second} in ${inPercent(kind.second_share)}`;
  const doubt = kind.leads || kind.second === null ? "" : `; ${kind.second} may be ahead`;
  return ` in ${inPercent(kind.share)} of ${inThousands(kind.documents)} documents (${Math.round(100 * kind.low)} to ${Math.round(100 * kind.high)})${then}${doubt}`;
}

/** @param {ProfiledHead} told */
function whereShown(told) {
  const distance = told.by_distance.length ? massChart(told.by_distance, "tokens back", (name) => name.replaceAll("..", " to ")) : h("p", { class: "pl-faint" }, "not known: the maps were not read");
  const known = told.by_position.some((row) => row.some((value) => value !== null));
  return h(
    "div",
    { class: "pl-where" },
    h("div", {}, h("h3", {}, "Weight by distance"), distance),
    h("div", {}, h("h3", {}, "Weight on token classes"), massChart(told.on_classes, "class", (name) => plainName(name, 40))),
    h("div", {}, h("h3", {}, "By part of the document"), known ? positionChart(told.by_position) : h("p", { class: "pl-faint" }, "not known: the maps were not read"), known ? h("p", { class: "pl-faint" }, "queries downward, keys to the right, a sixteenth of the document each") : null),
  );
}

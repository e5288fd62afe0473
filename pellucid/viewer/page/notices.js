// What a person must know of the record and the page before reading anything into them.

import { fill, h } from "./dom.js";
import { plainName } from "./choices.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./following.js").Serving} Serving
 */

const noticesServing = /** @type {Record<Serving, string>} */ ({
  up: "",
  lost: "The program that serves this page does not answer; start it again, this page goes on by itself if it answers at this address.",
  elsewhere: "A program answers here, but this address is another run's: open the address that it printed when it was started.",
});

/**
 * @param {Page} page
 */
export function pageNotices(page) {
  const alarm = h("div", { class: "pl-alarm", role: "alert" });
  const notes = h("div", { class: "pl-notes" });
  let made = "";
  return {
    element: h("section", { class: "pl-notices", "aria-label": "notices" }, alarm, notes),
    /** @param {Serving} now */
    serving(now) {
      fill(alarm, noticesServing[now] && h("p", {}, noticesServing[now]));
      if (now === "up") page.announce("the program answers again");
    },
    update() {
      const record = page.record(page.state.state);
      const text = JSON.stringify([record?.id, record?.notes, record?.complete, record?.following, record?.missed, page.info.left_out]);
      if (text === made) return;
      made = text;
      fill(notes, record ? noticesOf(page, record) : h("p", {}, "There is no record to look at."));
    },
  };
}

/**
 * @param {Page} page
 * @param {import("./client.js").RecordInfo} record
 * @returns {(HTMLElement | null)[]}
 */
function noticesOf(page, record) {
  const missed = record.missed.length;
  return [
    record.following ? h("p", {}, `Still being written: ${record.layers.length} layers so far, new ones appear by themselves.`) : null,
    !record.complete && !record.following ? h("p", {}, "The run was interrupted: these are the layers that were complete.") : null,
    missed ? h("p", {}, h("button", { type: "button", class: "pl-link", onclick: () => showMissed(page) }, missed === 1 ? "1 module was missed" : `${missed} modules were missed`)) : null,
    noticesList(record.notes.length === 1 ? "1 note on this record" : `${record.notes.length} notes on this record`, record.notes),
    noticesList("A saved page: what it leaves out", page.info.left_out),
  ];
}

/**
 * @param {string} title
 * @param {string[]} texts
 * @returns {HTMLElement | null}
 */
function noticesList(title, texts) {
  if (!texts.length) return null;
  return h("details", {}, h("summary", {}, title), h("ul", {}, texts.map((text) => h("li", {}, plainName(text, 2000)))));
}

/** @param {Page} page */
function showMissed(page) {
  page.state.set({ view: "heads" });
  const list = page.root.querySelector(".pl-missed");
  if (!(list instanceof HTMLDetailsElement)) return;
  list.open = true;
  list.scrollIntoView({ block: "nearest" });
  list.querySelector("summary")?.focus();
}

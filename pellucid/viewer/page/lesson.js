// A lesson beside the view: a few steps, each a text and the view that it is about.

import { fill, h } from "./dom.js";

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./client.js").Lesson} Lesson
 */

/**
 * What a step changes of the state: what the steps up to it say, and the defaults of what only later ones do.
 * @param {Lesson} lesson
 * @param {number} step
 * @returns {Record<string, string | null>}
 */
export function lessonPatch(lesson, step) {
  /** @type {Record<string, string | null>} */
  const patch = {};
  lesson.steps.forEach((one, number) => {
    for (const [name, value] of Object.entries(one.state)) {
      if (number <= step) patch[name] = value === "" || value === null ? null : String(value);
      else patch[name] ??= null;
    }
  });
  return { ...patch, step: String(step) };
}

/**
 * @param {Page} page
 * @param {Lesson} lesson
 */
export function lessonPanel(page, lesson) {
  const steps = lesson.steps;
  const count = h("p", { class: "pl-faint" });
  const text = h("div", { class: "pl-lesson-text", tabIndex: -1 });
  const back = h("button", { type: "button", title: "back (,)", onclick: () => go(-1) }, "‹ Back");
  const next = h("button", { type: "button", class: "pl-primary", title: "next (.)", onclick: () => go(1) }, "Next ›");
  const again = h("button", { type: "button", class: "pl-link", onclick: () => page.state.set(lessonPatch(lesson, at())) }, "Show this step's view again");
  const element = h(
    "aside",
    { class: "pl-lesson", "aria-label": "lesson" },
    h("h2", {}, lesson.title),
    h("div", { class: "pl-row pl-lesson-steps" }, back, count, next),
    text,
    again,
    h("p", { class: "pl-warning" }, lesson.warning),
  );
  let shown = -1;
  const at = () => Math.min(Math.max(Number(page.state.get("step", "0")) || 0, 0), Math.max(steps.length - 1, 0));
  function go(/** @type {1 | -1} */ by) {
    const to = at() + by;
    if (!steps[to]) return;
    page.state.set(lessonPatch(lesson, to));
    page.announce(`step ${to + 1} of ${steps.length}: ${steps[to].title}. ${steps[to].text}`);
  }
  return {
    element,
    go,
    /** Begin, unless an address says where. */
    start() {
      if (page.state.get("step") === "" && steps.length) page.state.set(lessonPatch(lesson, 0), { replace: true });
    },
    update() {
      if (shown === at()) return;
      shown = at();
      const step = steps[shown];
      count.textContent = steps.length ? `step ${shown + 1} of ${steps.length}` : "";
      fill(text, step && h("h3", {}, step.title), (step?.text ?? "").split(/\n{2,}/).map((paragraph) => h("p", {}, paragraph)));
      text.scrollTop = 0;
      back.disabled = shown === 0;
      next.disabled = shown >= steps.length - 1;
    },
  };
}

// The toolbar of maps: what is joined and pooled, colours and their range, strips.

import { barMarks } from "./bar.js";
import { COLOUR_MAPS, inDigits } from "./colour.js";
import { fill, h } from "./dom.js";
import { paintMarks } from "./marks.js";
import { holdWithin } from "./menu.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {{key: string, title: string, options: [string, string][], usual: string}} Choice the first option's key is what
 *   is meant where the state says nothing
 * @typedef {{zoom: (factor: number) => void, whole: () => void, strongest: () => void, again: () => void}} ToolActions
 * @typedef {{state: State, heads: number, strips: import("./client.js").StripInfo[], shownStrips: string[], square: boolean,
 *   bars: {title: string, name: string, table: Uint8Array, ticks: import("./bar.js").BarTick[]}[], scale: import("./colour.js").Scale,
 *   palette: import("./axes.js").Palette, refused: boolean}} ToolsShown title: what stands before a bar of several; name: what its colours are of
 */

/** @type {Choice[]} */
const toolsChoices = [
  { key: "over", title: "Heads as", options: [["mean", "mean"], ["max", "largest"]], usual: "mean" },
  { key: "pool", title: "Pooled by", options: [["mean", "mean"], ["max", "largest"]], usual: "mean" },
  { key: "scale", title: "Scale", options: [["log", "log"], ["sqrt", "square root"], ["linear", "linear"]], usual: "log" },
  { key: "colours", title: "Colours", options: COLOUR_MAPS.map((name) => [name, name]), usual: "viridis" },
];
const toolsBar = { width: 190, height: 30 };

/**
 * @param {import("./app.js").Page} page
 * @param {ToolActions} actions
 * @param {HTMLElement[]} others what stands in the toolbar besides, and is folded away with the rest where it is narrow
 */
export function mapTools(page, actions, others) {
  const selects = toolsChoices.map((choice) => toolsSelect(page, choice));
  const bars = h("div", { class: "pl-map-tool-group" });
  const range = toolsRange(page);
  const strips = h("div", { class: "pl-map-menu-list" });
  const menu = h("details", { class: "pl-map-menu", ontoggle: () => menu.open && holdWithin(strips), onfocusout: (/** @type {FocusEvent} */ event) => leave(event), onkeydown: (/** @type {KeyboardEvent} */ event) => shut(event) }, h("summary", {}, "Strips"), strips);
  const leave = (/** @type {FocusEvent} */ { relatedTarget }) => {
    if (relatedTarget instanceof Node && !menu.contains(relatedTarget)) menu.open = false;
  };
  const shut = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Escape" || !menu.open) return;
    event.preventDefault();
    menu.open = false;
    menu.querySelector("summary")?.focus();
  };
  const square = h("input", { type: "checkbox", onchange: () => page.state.set({ cells: square.checked ? "square" : "fill", q: null, k: null }) });
  const again = toolsButton("Ask again", "ask again for what was refused", actions.again);
  const zooms = h(
    "div",
    { class: "pl-map-tool-group", role: "group", "aria-label": "zoom" },
    toolsButton("−", "zoom out (-)", () => actions.zoom(0.5)),
    toolsButton("+", "zoom in (+)", () => actions.zoom(2)),
    toolsButton("Whole", "show the whole map (0)", actions.whole),
    toolsButton("Strongest", "go to the strongest of what is visible (s)", actions.strongest),
    again,
  );
  const look = h("div", { class: "pl-map-tool-look" }, others, selects.map((one) => one.element), range.element, h("label", { class: "pl-map-tool" }, square, " square cells"), menu);
  const more = h("details", { class: "pl-map-tool-more" }, h("summary", {}, "Look"), look);
  const element = h("div", { class: "pl-map-tools", role: "group", "aria-label": "how the map is shown" }, zooms, bars, more);
  const narrow = new ResizeObserver(() => {
    const isNarrow = element.clientWidth < 900;
    if (element.dataset.narrow !== String(isNarrow)) more.open = !isNarrow;
    element.dataset.narrow = String(isNarrow);
  });
  narrow.observe(element);
  return {
    element,
    /** @param {ToolsShown} shown */
    update(shown) {
      selects.forEach((one) => one.update(shown));
      range.update(shown);
      square.checked = shown.square;
      again.hidden = !shown.refused;
      menu.hidden = !shown.strips.length;
      const picked = JSON.stringify([shown.strips.map((strip) => strip.name), shown.shownStrips]);
      if (strips.dataset.picked !== picked) fill(strips, shown.strips.map((strip) => toolsStrip(page, strip, shown)));
      strips.dataset.picked = picked;
      toolsPaintBars(bars, shown);
    },
    destroy() {
      narrow.disconnect();
    },
  };
}

/** @param {string} text @param {string} title @param {() => void} act */
function toolsButton(text, title, act) {
  return h("button", { type: "button", title, "aria-label": title, onclick: act }, text);
}

/** @param {import("./app.js").Page} page @param {Choice} choice */
function toolsSelect(page, choice) {
  const options = choice.options.map(([value, text]) => h("option", { value }, text));
  const change = () => page.state.set({ [choice.key]: select.value === choice.usual ? null : select.value });
  const select = h("select", { "aria-label": choice.title, onchange: change }, options);
  const element = h("label", { class: "pl-map-tool" }, `${choice.title} `, select);
  return {
    element,
    /** @param {ToolsShown} shown */
    update({ state, heads }) {
      element.hidden = choice.key === "over" && heads < 2;
      select.value = choice.options.some(([value]) => value === state[choice.key]) ? state[choice.key] : choice.usual;
    },
  };
}

/** @param {import("./app.js").Page} page */
function toolsRange(page) {
  const field = (/** @type {string} */ label) => h("input", { class: "pl-map-range", inputMode: "decimal", "aria-label": label, title: label, onchange: () => change() });
  const low = field("least weight of the colours");
  const high = field("largest weight of the colours");
  const fitted = toolsButton("fit", "fit the colours to what is visible", () => page.state.set({ range: null }));
  const element = h("span", { class: "pl-map-tool", role: "group", "aria-label": "range of the colours" }, "Range ", low, " to ", high, " ", fitted);
  let shown = ["", ""];
  const change = () => {
    const [from, to] = [low, high].map((input) => Number(input.value.replace(",", ".")));
    if (to > from && from >= 0) page.state.set({ range: `${from}:${to}` });
    else {
      page.announce("the range was refused: it must be two weights from 0, the smaller first");
      [low.value, high.value] = shown;
    }
  };
  return {
    element,
    /** @param {ToolsShown} tools */
    update({ scale, state }) {
      const now = [inDigits(scale.low), inDigits(scale.high)];
      [low, high].forEach((input, number) => {
        if (document.activeElement !== input && input.value !== now[number]) input.value = now[number];
      });
      shown = now;
      fitted.disabled = state.range === undefined;
    },
  };
}

/**
 * @param {import("./app.js").Page} page
 * @param {import("./client.js").StripInfo} strip
 * @param {ToolsShown} shown
 */
function toolsStrip(page, strip, shown) {
  const change = () => {
    const names = shown.shownStrips.filter((name) => name !== strip.name);
    if (box.checked) names.push(strip.name);
    page.state.set({ strips: names.join(",") });
  };
  const box = h("input", { type: "checkbox", checked: shown.shownStrips.includes(strip.name), onchange: change });
  return h("label", { title: strip.title }, box, ` ${strip.name.replaceAll("_", " ")} `, h("span", { class: "pl-faint" }, `of ${strip.axis}`));
}

/** @param {HTMLElement} element @param {ToolsShown} shown */
function toolsPaintBars(element, { bars, palette }) {
  const titles = bars.map((bar) => bar.title).join();
  if (element.dataset.titles !== titles) {
    fill(element, bars.map((bar) => h("span", { class: "pl-map-bar-titled" }, bar.title, h("canvas", { class: "pl-map-bar", role: "img" }))));
  }
  element.dataset.titles = titles;
  element.querySelectorAll("canvas").forEach((canvas, number) => toolsPaintBar(canvas, bars[number], palette));
}

/** @param {HTMLCanvasElement} canvas @param {ToolsShown["bars"][number]} bar @param {import("./axes.js").Palette} palette */
function toolsPaintBar(canvas, { name, table, ticks }, palette) {
  const ratio = Math.min(window.devicePixelRatio || 1, 3);
  const look = JSON.stringify([name, ticks, palette, ratio, table[4], table[512]]);
  if (canvas.dataset.look === look) return;
  canvas.dataset.look = look;
  const { width, height } = toolsBar;
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  const context = canvas.getContext("2d");
  if (!context) return;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  paintMarks(context, barMarks(table, ticks, { x: 4, y: 1, width: width - 8 }, palette));
  canvas.setAttribute("aria-label", `colours of ${name} from ${ticks[0].text} to ${ticks[1].text}`);
}

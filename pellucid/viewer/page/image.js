// The patches of a picture, coloured by what a chosen token reads of them or by who reads it; all other tokens beside it.

import { colourTable, inDigits } from "./colour.js";
import { colourChoices, stateChoice, toolbar } from "./controls.js";
import { crossHeadings } from "./crosspicture.js";
import { fill, h } from "./dom.js";
import { listenKeys } from "./keys.js";
import { Figure } from "./figure.js";
import { imagesOf } from "./frames.js";
import { inkLegend, inkOn, inkPlace } from "./ink.js";
import { Patches } from "./patches.js";
import { pictureName } from "./picturename.js";
import { Reader } from "./reader.js";
import { strongestList } from "./strongest.js";
import { FIGURE_EDGE, figureBar, figureColours, figureFoot, figureHead, figurePane, paneHeight } from "./textfigure.js";
import { TextPane } from "./textpane.js";
import { placeName } from "./axistexts.js";

/**
 * @typedef {import("./frames.js").ImageInfo} ImageInfo
 * @typedef {import("./attending.js").Direction} Direction
 * @typedef {{pane: TextPane, axis: "queries" | "keys" | "both", positions: number[], element: HTMLElement}} ImageSide
 */

/**
 * @param {import("./app.js").Page} page
 * @returns {import("./app.js").View}
 */
export function imageView(page) {
  return new ImageView(page);
}

class ImageView {
  /** @param {import("./app.js").Page} page */
  constructor(page) {
    this.page = page;
    this.reader = new Reader(page, () => this.paint(), () => this.showTokens());
    /** @type {ImageSide[]} */
    this.sides = [];
    /** @type {ImageInfo | null} */
    this.image = null;
    this.message = "";
    /** @type {import("./ink.js").Ink | null} */
    this.patchInk = null;
    this.patches = new Patches({
      onpoint: (patch, by) => this.pointed(patch, by),
      onchoose: (patch, add) => this.choose(patch, add),
    });
    this.status = h("p", { class: "pl-text-status" });
    this.under = h("p", { class: "pl-text-under pl-faint" });
    this.legend = inkLegend();
    this.wordLegend = inkLegend();
    this.list = strongestList();
    this.texts = h("div", { class: "pl-image-texts" });
    this.controls = this.makeControls();
    this.element = h(
      "div",
      { class: "pl-image" },
      this.controls.element,
      this.status,
      h("div", { class: "pl-text-body pl-image-body" }, h("div", { class: "pl-image-picture" }, this.patches.element), this.texts, h("aside", { class: "pl-text-side pl-cross-side", "aria-label": "strongest weights", tabIndex: 0 }, this.list.element)),
      h("div", { class: "pl-text-foot" }, h("span", {}, "patches"), this.legend.element, h("span", {}, "words"), this.wordLegend.element, this.under),
    );
    this.reader.element = this.element;
    this.stopKeys = listenKeys(page.root, (event) => event.key === "Escape" && page.state.set({ fixed: null }));
  }

  makeControls() {
    const state = this.page.state;
    const picker = h("select", { "aria-label": "image", onchange: () => state.set({ image: picker.value }) });
    const direction = stateChoice(state, "direction", "Colour by", [["reads", "what it reads"], ["read", "who reads it"]]);
    direction.element.querySelector("select")?.addEventListener("change", () => state.set({ fixed: null }), true);
    const several = stateChoice(state, "several", "Fix", [["", "one token"], ["mean", "several: mean"]]);
    const colours = colourChoices(state);
    const blend = h("input", { type: "range", class: "pl-cross-slider", min: "0", max: "1", step: "0.05", value: "0.75", oninput: () => this.paint() });
    const element = toolbar("image", [picker, direction.element], [several.element, colours.elements, h("label", { class: "pl-choice" }, "Weights over picture", blend)]);
    return { element, picker, blend, direction, update: (/** @type {import("./state.js").State} */ current) => [direction, several, colours].forEach((one) => one.update(current, this.page.chosen(current))) };
  }

  /** @param {import("./state.js").State} state @param {Set<string>} changed */
  update(state, changed) {
    this.controls.update(state);
    this.reader.update(state, changed);
    if (changed.has("image") || changed.has("layer") || changed.has("record")) this.showTokens();
    if (["theme", "colours", "scale", "range", "several"].some((name) => changed.has(name))) this.reader.changed();
  }

  destroy() {
    this.stopKeys();
    this.reader.destroy();
    this.patches.destroy();
    this.asking?.abort();
    for (const side of this.sides) side.pane.destroy();
  }

  /** The images of the layer, on whichever axis they lie. */
  images() {
    const chosen = this.reader.chosen;
    if (!chosen) return [];
    const { record, layer, sequence } = chosen;
    const keys = imagesOf(record, layer, "keys", sequence);
    return [...keys, ...imagesOf(record, layer, "queries", sequence).filter((image) => !keys.includes(image))];
  }

  showTokens() {
    const { chosen, queries, keys } = this.reader;
    const images = this.images();
    const { picker } = this.controls;
    fill(picker, images.map((image) => h("option", { value: String(image.index) }, image.name || `image ${image.index}, ${image.rows} × ${image.columns}`)));
    picker.hidden = images.length < 2;
    const image = images.find((one) => String(one.index) === this.page.state.get("image")) ?? images[0] ?? null;
    if (image) picker.value = String(image.index);
    this.patches.element.hidden = !image;
    if (!chosen || !queries || !keys || !image) {
      this.image = null;
      this.paint();
      return;
    }
    if (image !== this.image) {
      this.image = image;
      this.patches.setGrid(image);
      this.fetchPicture(image);
    }
    const taken = new Set(images.flatMap((one) => one.positions));
    const wanted = /** @type {("queries" | "keys" | "both")[]} */ (this.reader.isCross ? ["queries", "keys"] : ["both"]);
    for (const side of this.sides) side.pane.destroy();
    this.sides = wanted.map((axis) => this.makeSide(axis, taken)).filter((side) => side.positions.length);
    fill(this.texts, this.sides.map((side) => side.element));
    this.texts.hidden = !this.sides.length;
    if (!this.reader.attending.fixed.length && !this.reader.attending.point) this.firstPoint();
    this.paint();
  }

  /** What is shown before anybody points: the last token of the text, or of a picture alone what stands before its patches. */
  firstPoint() {
    const { chosen, attending } = this.reader;
    if (!chosen || !this.image) return;
    const side = this.sides[0];
    const last = side?.positions[side.positions.length - 1];
    const position = last ?? this.image.positions[0];
    const direction = !side && this.axisOfImage() === "keys" ? "read" : "reads";
    attending.pointAt(direction, direction === "reads" ? position - chosen.layer.query_offset : position);
  }

  /** @param {"queries" | "keys" | "both"} axis @param {Set<number>} taken @returns {ImageSide} */
  makeSide(axis, taken) {
    const texts = /** @type {import("./axistexts.js").AxisTexts} */ (axis === "queries" ? this.reader.queries : this.reader.keys);
    const onAxis = axis === "both" || this.axisOfImage() === axis || this.axisOfImage() === "both";
    const positions = texts.texts.map((_, i) => texts.offset + i).filter((position) => !onAxis || !taken.has(position));
    const label = { queries: crossHeadings(this.reader.chosen?.layer)[0], keys: "Other keys", both: "Other tokens" }[axis];
    const pane = new TextPane({
      label,
      onpoint: (token, by) => this.pointedText(axis, positions[token], by),
      onchoose: (token, add) => {
        const place = this.placeOf(axis, positions[token]);
        this.reader.attending.toggle(place.direction, place.index, add);
      },
    });
    const element = h("section", { class: "pl-text-half" }, h("h2", {}, label), pane.element);
    const chips = new Set(positions.flatMap((position, token) => (texts.chips.has(position - texts.offset) ? [token] : [])));
    requestAnimationFrame(() => pane.setTokens(positions.map((position) => texts.texts[position - texts.offset]), chips));
    return { pane, axis, positions, element };
  }

  axisOfImage() {
    return this.image && this.reader.chosen ? this.image.axes[this.reader.chosen.layer.number] : undefined;
  }

  /** @param {"queries" | "keys" | "both"} axis @param {number} position @returns {{direction: Direction, index: number}} */
  placeOf(axis, position) {
    const direction = axis === "queries" ? "reads" : axis === "keys" ? "read" : this.reader.attending.direction;
    const offset = direction === "reads" ? (this.reader.chosen?.layer.query_offset ?? 0) : 0;
    return { direction, index: position - offset };
  }

  /** @param {ImageInfo} image */
  async fetchPicture(image) {
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    this.message = "";
    if (!image.has_picture) return;
    this.message = "Asking for the picture …";
    try {
      const record = /** @type {import("./app.js").Chosen} */ (this.reader.chosen).record.id;
      const picture = await this.page.client.picture(record, image.index, asking.signal);
      if (asking.signal.aborted) return;
      this.patches.setPicture(picture);
      this.message = "";
    } catch (error) {
      if (asking.signal.aborted) return;
      this.message = `The picture is not there: ${error instanceof Error ? error.message : error}`;
    }
    this.paint();
  }

  /** @param {number} patch @param {"pointer" | "key"} by */
  pointed(patch, by) {
    this.tell(this.image?.positions[patch] ?? -1);
    if (by === "key") this.page.announce(this.under.textContent ?? "");
  }

  /** @param {number} patch @param {boolean} add */
  choose(patch, add) {
    const axis = this.axisOfImage();
    if (!this.image || !axis) return;
    const { direction, index } = this.placeOf(axis, this.image.positions[patch]);
    this.reader.attending.toggle(direction, index, add);
    this.page.announce(`patch ${patch}: ${this.reader.attending.fixed.includes(index) ? "fixed" : "free"}`);
  }

  /** @param {"queries" | "keys" | "both"} axis @param {number} position @param {"pointer" | "key"} by */
  pointedText(axis, position, by) {
    const { direction, index } = this.placeOf(axis, position);
    this.reader.attending.pointAt(direction, index);
    const coloured = this.colouredAxis();
    this.tell(axis === "both" || axis === coloured ? position : -1);
    if (by === "key") this.page.announce(this.under.textContent ?? "");
  }

  /** The axis whose places have colours now. */
  colouredAxis() {
    return this.reader.shown?.direction === "read" ? "queries" : "keys";
  }

  /** The place of a position on the axis that is coloured. @param {number} position */
  colouredPlace(position) {
    return position - (this.colouredAxis() === "queries" ? (this.reader.chosen?.layer.query_offset ?? 0) : 0);
  }

  /** @param {number} position */
  tell(position) {
    const texts = this.colouredAxis() === "queries" ? this.reader.queries : this.reader.keys;
    if (position < 0 || !texts) return;
    const index = this.colouredPlace(position);
    const weight = this.reader.weightAt(index);
    this.under.textContent = `${placeName(texts, position - texts.offset)}${weight ? `: ${weight}` : ""}`;
  }

  paint() {
    const { chosen, shown } = this.reader;
    fill(this.status, this.headline());
    this.reader.expect(this.message.endsWith("…"));
    this.legend.element.hidden = this.wordLegend.element.hidden = !shown || !this.image;
    if (!chosen || !this.image) return;
    this.paintPatches(this.image);
    for (const side of this.sides) this.paintSide(side);
    const words = { reads: "Reads most", read: "Is read most by" };
    const list = shown ? this.reader.strong((index) => this.go(index)) : [];
    this.list.show(shown ? words[shown.direction] : "", list, list.length ? "" : "Choose a token or a patch.");
    if (shown && this.reader.ink) this.wordLegend.show(this.reader.ink, this.reader.scale);
  }

  /** @param {ImageInfo} image */
  paintPatches(image) {
    const { shown, scale } = this.reader;
    const table = colourTable(this.page.state.get("colours", "viridis"));
    const colours = Array.from({ length: 256 }, (_, i) => [table[i * 4], table[i * 4 + 1], table[i * 4 + 2]]);
    this.patchInk = { back: colours.map((colour) => `rgb(${colour.join(",")})`), ink: colours.map(inkOn) };
    if (shown) this.legend.show(this.patchInk, scale);
    const axis = this.axisOfImage();
    const coloured = this.colouredAxis();
    const isColoured = shown && (axis === "both" || axis === coloured);
    const offset = this.reader.chosen?.layer.query_offset ?? 0;
    const chosenAxis = shown?.direction === "reads" ? "queries" : "keys";
    this.patches.paint(
      (patch) => {
        const log = isColoured ? shown.joined[this.colouredPlace(image.positions[patch])] : NaN;
        const place = inkPlace(log ?? NaN, scale);
        return place < 0 ? null : { colour: colours[place], strength: 0.2 + (0.8 * place) / 255 };
      },
      (patch) => Boolean(shown && (axis === "both" || axis === chosenAxis) && shown.places.includes(image.positions[patch] - (chosenAxis === "queries" ? offset : 0))),
      Number(this.controls.blend.value),
      figureColours(this.page.root),
    );
  }

  /** @param {ImageSide} side */
  paintSide(side) {
    const { shown } = this.reader;
    const texts = side.axis === "queries" ? this.reader.queries : this.reader.keys;
    const isColoured = side.axis === "both" || side.axis === this.colouredAxis();
    side.pane.paint((token) => {
      const position = side.positions[token];
      const look = shown && isColoured ? this.reader.look(this.colouredPlace(position)) : {};
      const { direction, index } = this.placeOf(side.axis, position);
      const chosen = shown?.direction === direction && shown.places.includes(index) ? (shown.fixed ? " pl-fixed" : " pl-pointed") : "";
      const special = texts?.special.has(position - texts.offset) ? " pl-special" : "";
      return { ...look, marks: `${look.marks ?? ""}${chosen}${special}` };
    });
  }

  /** Show a place of the coloured axis, in the picture or in the text. @param {number} index */
  go(index) {
    const coloured = this.colouredAxis();
    const position = index + (coloured === "queries" ? (this.reader.chosen?.layer.query_offset ?? 0) : 0);
    const axis = this.axisOfImage();
    const patch = axis === "both" || axis === coloured ? (this.image?.positions.indexOf(position) ?? -1) : -1;
    if (patch >= 0) this.patches.moveTo(patch);
    else {
      const side = this.sides.find((one) => (one.axis === "both" || one.axis === coloured) && one.positions.includes(position));
      if (side) {
        side.pane.cursor = side.positions.indexOf(position);
        side.pane.scrollTo(side.pane.cursor);
      }
    }
    this.tell(position);
  }

  headline() {
    const { chosen } = this.reader;
    if (!chosen) return "The record holds no layer yet.";
    if (!this.reader.keys) return "asking for the tokens …";
    if (!this.image) {
      const names = chosen.record.layers.filter((layer) => chosen.record.images.some((image) => layer.number in image.axes)).map((layer) => layer.name);
      const shown = names.slice(0, 4).join(", ");
      return `No picture lies in the sequences of ${chosen.layer.name}. ${names.length ? `It lies in those of ${shown}${names.length > 4 ? ` and ${names.length - 4} more layers` : ""}.` : ""}`;
    }
    const what = this.image.has_picture ? "" : " The record has the grid of patches without a picture.";
    const sum = this.patchSum();
    return `${this.reader.problem} ${this.reader.headline() || "Choose a token or a patch."}${sum} ${this.message}${what}`.trim();
  }

  /** How much of the weight is on the picture. */
  patchSum() {
    const { shown } = this.reader;
    const axis = this.axisOfImage();
    if (!shown || shown.direction !== "reads" || shown.known !== null || !this.image || axis === "queries") return "";
    let sum = 0;
    for (const position of this.image.positions) sum += Math.exp(shown.joined[position] ?? -Infinity);
    return Number.isNaN(sum) ? "" : ` The patches together have ${inDigits(sum)} of the weight.`;
  }

  python() {
    return this.reader.python();
  }

  /** @param {"png" | "svg"} kind */
  picture(kind) {
    const { back, text, mark } = figureColours(this.page.root);
    const canvas = this.patches.canvas;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const widths = this.sides.map((side) => side.pane.element.getBoundingClientRect().width);
    const figure = new Figure(Math.max(width + 48 + Math.max(0, ...widths), 420), 0, back);
    const top = figureHead(figure, this.page, this.reader, this.patchSum()) + 8;
    figure.add({ kind: "image", x: FIGURE_EDGE, y: top, width, height, canvas });
    let y = top;
    for (const { pane } of this.sides) {
      figure.add({ kind: "text", x: width + 44, y: y + 10, text: pane.label, fill: text, size: 12, bold: true });
      figurePane(figure, pane, width + 32, y + 14, text, mark);
      y += paneHeight(pane) + 18;
    }
    const patches = this.reader.shown && this.patchInk ? [figureBar(this.reader, this.patchInk, text, "patches")] : [];
    figureFoot(figure, this.page, this.reader, this.reader.shown && this.sides.length ? this.reader.ink : null, Math.max(top + height, y), patches, "words");
    const { chosen } = this.reader;
    return figure.picture(kind, pictureName(chosen?.record, chosen ? [chosen] : [], "image", kind));
  }
}

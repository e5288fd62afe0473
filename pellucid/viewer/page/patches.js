// A grid of patches over a picture, on a canvas: pointed at, chosen, moved through by keys.

import { h } from "./dom.js";

/**
 * @typedef {{onpoint: (patch: number, by: "pointer" | "key") => void, onchoose: (patch: number, add: boolean) => void}} PatchesOptions
 * @typedef {{colour: number[], strength: number}} PatchLook strength: 0 to 1
 */

export class Patches {
  /** @param {PatchesOptions} options */
  constructor(options) {
    this.options = options;
    this.rows = 1;
    this.columns = 1;
    this.cursor = 0;
    /** @type {HTMLCanvasElement | null} */
    this.picture = null;
    this.redraw = () => {};
    this.canvas = h("canvas", {
      class: "pl-patches",
      role: "application",
      "aria-roledescription": "grid of patches",
      tabIndex: 0,
      onpointermove: (/** @type {PointerEvent} */ event) => this.point(this.patchAt(event), "pointer"),
      onclick: (/** @type {MouseEvent} */ event) => this.clicked(event),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
      onfocus: () => this.redraw(),
      onblur: () => this.redraw(),
    });
    this.element = h("div", { class: "pl-patches-frame" }, this.canvas);
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(this.element);
  }

  destroy() {
    this.observer.disconnect();
  }

  /** @param {import("./frames.js").ImageInfo} image */
  setGrid(image) {
    [this.rows, this.columns] = [image.rows, image.columns];
    this.ratio = image.has_picture ? image.width / image.height : image.columns / image.rows;
    this.picture = null;
    this.cursor = 0;
    this.canvas.setAttribute("aria-label", `${image.name || "image"}: ${image.rows} by ${image.columns} patches; arrow keys move, Enter fixes`);
    this.fit();
  }

  /** @param {{pixels: Uint8Array, height: number, width: number}} picture */
  setPicture(picture) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.width, picture.height];
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const image = context.createImageData(picture.width, picture.height);
    for (let i = 0; i < picture.width * picture.height; i++) {
      for (let c = 0; c < 3; c++) image.data[i * 4 + c] = picture.pixels[i * 3 + c];
      image.data[i * 4 + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    this.picture = canvas;
  }

  /** As large as there is room, in the picture's own proportions. */
  fit() {
    const [wide, high] = [this.element.clientWidth, this.element.clientHeight];
    const ratio = this.ratio ?? 1;
    if (!wide || !high) return;
    const width = Math.floor(Math.min(wide, high * ratio));
    const height = Math.floor(width / ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const times = devicePixelRatio || 1;
    [this.canvas.width, this.canvas.height] = [Math.round(width * times), Math.round(height * times)];
    this.redraw();
  }

  /**
   * @param {(patch: number) => PatchLook | null} look null: no colour
   * @param {(patch: number) => boolean} isChosen
   * @param {number} blend how much of the picture the strongest weight hides, 0 to 1
   * @param {{mark: string, line: string, back: string, text: string}} colours
   */
  paint(look, isChosen, blend, colours) {
    this.redraw = () => {
      const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
      const { width, height } = this.canvas;
      context.fillStyle = colours.back;
      context.fillRect(0, 0, width, height);
      context.imageSmoothingEnabled = !this.picture || this.picture.width > width;
      if (this.picture) context.drawImage(this.picture, 0, 0, width, height);
      for (let patch = 0; patch < this.rows * this.columns; patch++) {
        const found = look(patch);
        if (!found) continue;
        context.globalAlpha = this.picture ? found.strength * blend : 1;
        context.fillStyle = `rgb(${found.colour.join(",")})`;
        context.fillRect(...this.boxOf(patch));
      }
      context.globalAlpha = 1;
      if (!this.picture) this.drawGrid(context, colours.line);
      this.outline(context, isChosen, colours);
    };
    this.redraw();
  }

  /** @param {CanvasRenderingContext2D} context @param {string} line */
  drawGrid(context, line) {
    context.strokeStyle = line;
    context.lineWidth = 1;
    for (let patch = 0; patch < this.rows * this.columns; patch++) context.strokeRect(...this.boxOf(patch));
  }

  /** @param {CanvasRenderingContext2D} context @param {(patch: number) => boolean} isChosen @param {{mark: string, text: string, back: string}} colours */
  outline(context, isChosen, colours) {
    const times = devicePixelRatio || 1;
    const frame = (/** @type {number} */ patch, /** @type {string} */ stroke, /** @type {number} */ width) => {
      const [x, y, wide, high] = this.boxOf(patch);
      context.strokeStyle = stroke;
      context.lineWidth = width * times;
      context.strokeRect(x, y, wide, high);
    };
    for (let patch = 0; patch < this.rows * this.columns; patch++) {
      if (!isChosen(patch)) continue;
      frame(patch, colours.back, 5);
      frame(patch, colours.mark, 3);
    }
    if (document.activeElement !== this.canvas && this.canvas.matches(":focus") === false) return;
    frame(this.cursor, colours.back, 4);
    context.setLineDash([4 * times, 3 * times]);
    frame(this.cursor, colours.text, 2);
    context.setLineDash([]);
  }

  /** Of the canvas's own pixels, whole ones. @param {number} patch @returns {[number, number, number, number]} */
  boxOf(patch) {
    const [row, column] = [Math.floor(patch / this.columns), patch % this.columns];
    const [x, u] = [column, column + 1].map((at) => Math.round((at * this.canvas.width) / this.columns));
    const [y, v] = [row, row + 1].map((at) => Math.round((at * this.canvas.height) / this.rows));
    return [x, y, u - x, v - y];
  }

  /** @param {MouseEvent} event */
  patchAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
    const row = Math.floor(((event.clientY - box.top) / box.height) * this.rows);
    return Math.max(0, Math.min(row, this.rows - 1)) * this.columns + Math.max(0, Math.min(column, this.columns - 1));
  }

  /** @param {number} patch @param {"pointer" | "key"} by */
  point(patch, by) {
    this.cursor = patch;
    if (by === "key") this.redraw();
    this.options.onpoint(patch, by);
  }

  /** @param {number} patch */
  moveTo(patch) {
    this.canvas.focus();
    this.point(patch, "key");
  }

  /** @param {MouseEvent} event */
  clicked(event) {
    this.point(this.patchAt(event), "pointer");
    this.options.onchoose(this.cursor, event.shiftKey || event.ctrlKey || event.metaKey);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const steps = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] });
    const step = steps[event.key];
    if (step) {
      const row = Math.max(0, Math.min(Math.floor(this.cursor / this.columns) + step[0], this.rows - 1));
      const column = Math.max(0, Math.min((this.cursor % this.columns) + step[1], this.columns - 1));
      this.point(row * this.columns + column, "key");
    } else if (event.key === "Home" || event.key === "End") this.point(event.key === "Home" ? 0 : this.rows * this.columns - 1, "key");
    else if (event.key === "Enter" || event.key === " ") this.options.onchoose(this.cursor, event.shiftKey || event.ctrlKey);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

// Draws grids of logarithms as colours: by WebGL2 where there is one, else on a plain canvas, with the same look.

import { coloured, scaleFunction } from "./colour.js";
import { h } from "./dom.js";

/**
 * @typedef {import("./viewport.js").Visible} Visible
 * @typedef {import("./colour.js").Scale} Scale
 * @typedef {{logs: Float32Array, rows: number, columns: number, q0: number, k0: number, qBin: number, kBin: number}} Grid
 *   bins of qBin rows by kBin keys, the first at q0, k0
 * @typedef {{zero: number[], nothing: number[]}} Apart [r, g, b, a], 0 to 255: of weight 0, and of what has no weight
 * @typedef {{grids: Grid[], visible: Visible, scale: Scale, table: Uint8Array, apart: Apart}} RasterScene grids: the lower first
 * @typedef {{width: number, height: number}} Size
 * @typedef {{canvas: HTMLCanvasElement, draw: (scene: RasterScene) => void, destroy: () => void}} Painter
 */

const rasterVertex = `#version 300 es
in vec2 corner;
uniform vec4 area;
void main() { gl_Position = vec4(area.xy + corner * area.zw, 0.0, 1.0); }`;

// What is not finite is told apart by 1e30 (nothing) and -1e30 (weight 0): not every driver keeps NaN.
const rasterFragment = `#version 300 es
precision highp float;
precision highp sampler2D;
uniform sampler2D logs;
uniform sampler2D colours;
uniform vec4 bins;
uniform vec2 range;
uniform int kind;
uniform float height;
uniform vec4 zero;
uniform vec4 nothing;
out vec4 colour;
void main() {
  vec2 pixel = vec2(gl_FragCoord.x, height - gl_FragCoord.y);
  ivec2 bin = clamp(ivec2(floor(bins.xy + pixel * bins.zw)), ivec2(0), textureSize(logs, 0) - 1);
  float value = texelFetch(logs, bin, 0).r;
  if (value > 1e29) { colour = nothing; return; }
  if (value < -1e29) { colour = zero; return; }
  float scaled = kind == 0 ? value : exp(kind == 1 ? value * 0.5 : value);
  float at = range.y > 0.0 ? clamp((scaled - range.x) / range.y, 0.0, 1.0) : 1.0;
  colour = texelFetch(colours, ivec2(int(floor(at * 255.0 + 0.5)), 0), 0);
}`;

/** A raster of its own canvas. It may change from WebGL to a plain canvas when the context is lost. */
export class Raster {
  /**
   * @param {() => void} lost what draws again
   * @param {number} [kept] textures, or coloured tiles, that are kept between frames
   */
  constructor(lost, kept = 128) {
    this.kept = kept;
    this.element = h("div", { class: "pl-map-raster" });
    this.lost = lost;
    /** @type {Size} */
    this.size = { width: 1, height: 1 };
    this.painter = rasterGl(() => this.fallBack(), kept) ?? rasterFlat(kept);
    this.element.append(this.painter.canvas);
  }

  fallBack() {
    this.painter.destroy();
    this.painter = rasterFlat(this.kept);
    this.element.replaceChildren(this.painter.canvas);
    this.lost();
  }

  /** @param {RasterScene} scene @param {Size} size in pixels of the screen */
  draw(scene, size) {
    const { canvas } = this.painter;
    if (canvas.width !== size.width) canvas.width = size.width;
    if (canvas.height !== size.height) canvas.height = size.height;
    this.size = size;
    this.painter.draw(scene);
  }

  /**
   * The same, drawn once in another size, on a canvas that the caller may keep.
   * @param {RasterScene} scene
   * @param {Size} size
   * @returns {HTMLCanvasElement}
   */
  copy(scene, size) {
    const before = this.size;
    this.draw(scene, size);
    const kept = h("canvas", { width: size.width, height: size.height });
    kept.getContext("2d")?.drawImage(this.painter.canvas, 0, 0);
    this.draw(scene, before);
    return kept;
  }

  destroy() {
    this.painter.destroy();
  }
}

/**
 * Where a grid lies on a canvas, in whole pixels.
 * @param {Grid} grid
 * @param {Visible} visible
 * @param {Size} size
 */
export function rasterArea(grid, visible, size) {
  const down = size.height / (visible.q1 - visible.q0);
  const right = size.width / (visible.k1 - visible.k0);
  const x0 = Math.round((grid.k0 - visible.k0) * right);
  const y0 = Math.round((grid.q0 - visible.q0) * down);
  const x1 = Math.round((grid.k0 + grid.columns * grid.kBin - visible.k0) * right);
  const y1 = Math.round((grid.q0 + grid.rows * grid.qBin - visible.q0) * down);
  return { x0, y0, x1, y1, right, down };
}

/**
 * @param {() => void} lost
 * @param {number} kept
 * @returns {Painter | null}
 */
function rasterGl(lost, kept) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  const gl = canvas.getContext("webgl2", { antialias: false, depth: false, alpha: true, premultipliedAlpha: true });
  const program = gl && rasterProgram(gl);
  if (!gl || !program) return null;
  const place = (/** @type {string} */ name) => gl.getUniformLocation(program, name);
  const places = Object.fromEntries(
    ["area", "bins", "range", "kind", "height", "zero", "nothing", "logs", "colours"].map((name) => [name, place(name)]),
  );
  const corners = gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, corners);
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([0, 0, 1, 0, 0, 1, 1, 1]), gl.STATIC_DRAW);
  const corner = gl.getAttribLocation(program, "corner");
  gl.enableVertexAttribArray(corner);
  gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
  gl.useProgram(program);
  gl.uniform1i(places.logs, 0);
  gl.uniform1i(places.colours, 1);
  const colours = rasterTexture(gl);
  /** @type {Map<Float32Array, WebGLTexture>} */
  const textures = new Map();
  /** @type {Uint8Array | null} */
  let shown = null;
  let destroyed = false;
  const onLost = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (!destroyed) lost();
  };
  canvas.addEventListener("webglcontextlost", onLost);

  /** @param {RasterScene} scene */
  function draw({ grids, visible, scale, table, apart }) {
    if (!gl) return;
    const size = { width: canvas.width, height: canvas.height };
    gl.viewport(0, 0, size.width, size.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, colours);
    if (table !== shown) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, table);
    shown = table;
    gl.activeTexture(gl.TEXTURE0);
    const of = scaleFunction(scale.kind);
    const low = of(Math.log(scale.low));
    gl.uniform2f(places.range, low, of(Math.log(scale.high)) - low);
    gl.uniform1i(places.kind, scale.kind === "log" ? 0 : scale.kind === "sqrt" ? 1 : 2);
    gl.uniform1f(places.height, size.height);
    gl.uniform4fv(places.zero, apart.zero.map((value) => value / 255));
    gl.uniform4fv(places.nothing, apart.nothing.map((value) => value / 255));
    for (const grid of grids) drawGrid(grid, visible, size);
    while (textures.size > Math.max(kept, grids.length)) {
      const [oldest, texture] = /** @type {[Float32Array, WebGLTexture]} */ (textures.entries().next().value);
      gl.deleteTexture(texture);
      textures.delete(oldest);
    }
  }

  /** @param {Grid} grid @param {Visible} visible @param {Size} size */
  function drawGrid(grid, visible, size) {
    if (!gl) return;
    const { x0, y0, x1, y1, right, down } = rasterArea(grid, visible, size);
    if (x1 <= 0 || y1 <= 0 || x0 >= size.width || y0 >= size.height || x1 <= x0 || y1 <= y0) return;
    const texture = textures.get(grid.logs) ?? rasterUploaded(gl, grid);
    textures.delete(grid.logs);
    textures.set(grid.logs, texture);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    const [left, top] = [(x0 / size.width) * 2 - 1, 1 - (y0 / size.height) * 2];
    gl.uniform4f(places.area, left, top, ((x1 - x0) / size.width) * 2, ((y0 - y1) / size.height) * 2);
    const [perX, perY] = [1 / (right * grid.kBin), 1 / (down * grid.qBin)];
    gl.uniform4f(places.bins, (visible.k0 - grid.k0) / grid.kBin, (visible.q0 - grid.q0) / grid.qBin, perX, perY);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  return {
    canvas,
    draw,
    destroy() {
      destroyed = true;
      canvas.removeEventListener("webglcontextlost", onLost);
      gl.getExtension("WEBGL_lose_context")?.loseContext();
    },
  };
}

/** @param {WebGL2RenderingContext} gl @returns {WebGLProgram | null} null where the driver refuses */
function rasterProgram(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, rasterVertex], [gl.FRAGMENT_SHADER, rasterFragment]]) {
    const shader = gl.createShader(Number(kind));
    if (!shader || !program) return null;
    gl.shaderSource(shader, String(source));
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  if (!program) return null;
  gl.linkProgram(program);
  return gl.getProgramParameter(program, gl.LINK_STATUS) ? program : null;
}

/** @param {WebGL2RenderingContext} gl */
function rasterTexture(gl) {
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  for (const [name, value] of [
    [gl.TEXTURE_MIN_FILTER, gl.NEAREST],
    [gl.TEXTURE_MAG_FILTER, gl.NEAREST],
    [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE],
    [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE],
  ]) {
    gl.texParameteri(gl.TEXTURE_2D, name, value);
  }
  return /** @type {WebGLTexture} */ (texture);
}

/** @param {WebGL2RenderingContext} gl @param {Grid} grid */
function rasterUploaded(gl, grid) {
  const texture = rasterTexture(gl);
  const finite = new Float32Array(grid.logs.length);
  for (let i = 0; i < finite.length; i++) {
    const log = grid.logs[i];
    finite[i] = log !== log ? 1e30 : log === -Infinity ? -1e30 : log;
  }
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, grid.columns, grid.rows, 0, gl.RED, gl.FLOAT, finite);
  return texture;
}

/** @param {number} kept @returns {Painter} */
function rasterFlat(kept) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  /** @type {Map<Float32Array, {look: string, table: Uint8Array, picture: HTMLCanvasElement}>} */
  const pictures = new Map();

  /** @param {Grid} grid @param {RasterScene} scene */
  function pictureOf(grid, scene) {
    const look = JSON.stringify([scene.scale, scene.apart]);
    let known = pictures.get(grid.logs);
    pictures.delete(grid.logs);
    if (!known || known.look !== look || known.table !== scene.table) {
      const picture = h("canvas", { width: grid.columns, height: grid.rows });
      const pixels = /** @type {Uint8ClampedArray<ArrayBuffer>} */ (coloured(grid.logs, scene.scale, scene.table, scene.apart));
      picture.getContext("2d")?.putImageData(new ImageData(pixels, grid.columns, grid.rows), 0, 0);
      known = { look, table: scene.table, picture };
    }
    pictures.set(grid.logs, known);
    return known.picture;
  }

  return {
    canvas,
    draw(scene) {
      const context = canvas.getContext("2d");
      if (!context) return;
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.imageSmoothingEnabled = false;
      for (const grid of scene.grids) {
        const part = rasterPart(grid, scene.visible);
        const { x0, y0, x1, y1 } = rasterArea({ ...grid, ...part }, scene.visible, canvas);
        if (x1 <= x0 || y1 <= y0) continue;
        context.drawImage(pictureOf(grid, scene), part.column, part.row, part.columns, part.rows, x0, y0, x1 - x0, y1 - y0);
      }
      while (pictures.size > Math.max(kept, scene.grids.length)) pictures.delete(/** @type {Float32Array} */ (pictures.keys().next().value));
    },
    destroy() {
      pictures.clear();
    },
  };
}

/**
 * The bins of a grid that are visible: a picture of few bins is not drawn millions of pixels wide.
 * @param {Grid} grid
 * @param {Visible} visible
 */
function rasterPart(grid, visible) {
  const column = Math.max(0, Math.floor((visible.k0 - grid.k0) / grid.kBin));
  const row = Math.max(0, Math.floor((visible.q0 - grid.q0) / grid.qBin));
  const columns = Math.max(0, Math.min(grid.columns, Math.ceil((visible.k1 - grid.k0) / grid.kBin)) - column);
  const rows = Math.max(0, Math.min(grid.rows, Math.ceil((visible.q1 - grid.q0) / grid.qBin)) - row);
  return { column, row, columns, rows, k0: grid.k0 + column * grid.kBin, q0: grid.q0 + row * grid.qBin };
}

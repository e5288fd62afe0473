// A page in a cell of a notebook: questions go to the kernel as messages of the widget's model, and answers come back.

import { Client } from "./client.js";
import { h } from "./dom.js";
import { ViewState } from "./state.js";

/**
 * What a widget's front end gives of its model (anywidget).
 * @typedef {{get: (name: string) => any, send: (content: any) => void,
 *   on: (event: string, listener: (content: any, buffers: DataView[]) => void) => void,
 *   off: (event: string, listener: (content: any, buffers: DataView[]) => void) => void}} WidgetModel
 * @typedef {import("./client.js").Reply} Reply
 * @typedef {{resolve: (reply: Reply) => void, reject: (error: Error) => void, ask: () => void, timer: number}} Waiting
 */

const widgetPatience = 60000; // milliseconds without an answer until a kernel counts as gone

/**
 * Questions by messages to the kernel. Where a front end drops their bytes, they are asked for again as text.
 * @param {WidgetModel} model
 * @returns {import("./client.js").Transport & {close: () => void}}
 */
export function commTransport(model) {
  const own = Math.random().toString(36).slice(2); // several views of one model hear one another's answers
  /** @type {Map<string, Waiting>} */
  const waiting = new Map();
  let asText = false;
  let count = 0;

  const answered = (/** @type {any} */ content, /** @type {DataView[]} */ buffers) => {
    const asked = waiting.get(content?.id);
    if (!asked) return;
    const bytes = widgetBytes(content, buffers);
    if (bytes === null) {
      asText = true;
      asked.ask();
      return;
    }
    waiting.delete(content.id);
    clearTimeout(asked.timer);
    asked.resolve({ status: content.status, headers: content.headers, bytes });
  };
  model.on("msg:custom", answered);

  const ask = (/** @type {string} */ path, /** @type {Record<string, string>} */ query, /** @type {AbortSignal | undefined} */ signal) =>
    new Promise((/** @type {(reply: Reply) => void} */ resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const id = `${own}-${count++}`;
      const given = () => model.send({ id, path, query, text: asText });
      const timer = window.setTimeout(() => {
        waiting.delete(id);
        reject(new Error("the kernel does not answer"));
      }, widgetPatience);
      waiting.set(id, { resolve, reject, ask: given, timer });
      signal?.addEventListener("abort", () => {
        if (!waiting.delete(id)) return;
        clearTimeout(timer);
        model.send({ id, cancel: true });
        reject(signal.reason);
      });
      given();
    });
  const close = () => {
    model.off("msg:custom", answered);
    for (const asked of waiting.values()) clearTimeout(asked.timer);
    waiting.clear();
  };
  return Object.assign(ask, { close });
}

/**
 * The bytes of an answer; null where the front end has dropped them.
 * @param {any} content
 * @param {DataView[] | undefined} buffers
 * @returns {ArrayBuffer | null}
 */
function widgetBytes(content, buffers) {
  if (typeof content.text === "string") return widgetDecoded(content.text);
  const view = buffers?.[0];
  if (view === undefined || view.byteLength !== content.size) return content.size === 0 ? new ArrayBuffer(0) : null;
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice().buffer;
}

/**
 * @param {string} text
 * @returns {ArrayBuffer}
 */
function widgetDecoded(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
}

/**
 * Show a page in a cell (anywidget's `render`). Returns what takes it away again.
 * @param {{model: WidgetModel, el: HTMLElement}} context
 * @param {(root: HTMLElement, client: Client, state: ViewState) => Promise<(() => void) | void>} open
 * @returns {() => void}
 */
export function renderCell({ model, el }, open) {
  const root = h("div", { style: { height: `${model.get("height")}px` } });
  el.append(root);
  const transport = commTransport(model);
  const state = new ViewState(model.get("state"));
  let gone = false;
  let leave = () => {};
  open(root, new Client(transport), state).then(
    (close) => (gone ? close?.() : (leave = close ?? leave)),
    () => {},
  );
  return () => {
    gone = true;
    leave();
    transport.close();
    root.remove();
  };
}

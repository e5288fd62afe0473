// The page that opens from disk: everything that it can say lies in it.

import { openPage } from "./app.js";
import { Client } from "./client.js";
import { embeddedTransport } from "./embedded.js";
import { ViewState } from "./state.js";

/** Open the page with the answers that lie beside its script. */
export function openSaved() {
  const root = document.getElementById("pellucid");
  const held = document.getElementById("pellucid-answers");
  if (!root || !held) return;
  const { answers, state } = JSON.parse(held.textContent ?? "");
  held.remove();
  const view = new ViewState();
  view.bindAddress();
  if (!Object.keys(view.state).length) view.set(state, { replace: true });
  openPage(root, new Client(embeddedTransport(answers)), view).catch(() => {});
}

// The page of a profile that opens from disk: what it can say lies in it.

import { Client } from "./client.js";
import { embeddedInflated } from "./embedded.js";
import { openProfile } from "./profilepage.js";
import { ViewState } from "./state.js";

/** Open the page with the answers that lie beside its script. */
export function openSavedProfile() {
  const root = document.getElementById("pellucid");
  const held = document.getElementById("pellucid-answers");
  if (!root || !held) return;
  const { answers } = JSON.parse(held.textContent ?? "");
  held.remove();
  const state = new ViewState();
  state.bindAddress();
  openProfile(root, new Client(profileTransport(answers)), state).catch(() => {});
}

/**
 * Questions answered from what lies in the page.
 * @param {Record<string, {body: string}>} held
 * @returns {import("./client.js").Transport}
 */
function profileTransport(held) {
  return async (path, query) => {
    const found = held[[path, query.head, query.number].filter((part) => part !== undefined).join(" ")];
    const headers = { "content-type": "application/json" };
    if (found) return { status: 200, headers, bytes: await embeddedInflated(found.body) };
    const bytes = new TextEncoder().encode(JSON.stringify({ error: "this saved page has no room for it; pellucid view shows it" }));
    return { status: 404, headers, bytes: bytes.buffer };
  };
}

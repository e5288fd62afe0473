// The page in a window of its own.

import { openPage } from "./app.js";
import { Client, httpTransport } from "./client.js";
import { ViewState } from "./state.js";

const mainRoot = document.getElementById("pellucid");
if (mainRoot) {
  const mainState = new ViewState();
  mainState.bindAddress();
  openPage(mainRoot, new Client(httpTransport("")), mainState).catch(() => {});
}

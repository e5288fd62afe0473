// The page of a profile in a window of its own.

import { Client, httpTransport } from "./client.js";
import { openProfile } from "./profilepage.js";
import { ViewState } from "./state.js";

const profileRoot = document.getElementById("pellucid");
if (profileRoot) {
  const profileState = new ViewState();
  profileState.bindAddress();
  openProfile(profileRoot, new Client(httpTransport("")), profileState).catch(() => {});
}

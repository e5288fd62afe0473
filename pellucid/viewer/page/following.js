// Keeps what the page knows of its records up to date: of one that is still being written, and after the server was away.

/**
 * @typedef {import("./app.js").Page} Page
 * @typedef {import("./client.js").Serving} Serving
 */

const followingEvery = 2000; // milliseconds

/**
 * Ask `info` again every two seconds while a record is followed or nobody answers.
 * @param {Page} page
 * @param {{changed: (anew: boolean) => void, serving: (now: Serving) => void}} tell `changed` after page.info is another, or is
 *   there again; anew: a record has taken another's place, so that nothing of what is shown may stay
 * @returns {() => void} stops
 */
export function followInfo(page, tell) {
  /** @type {Serving} */
  let serving = "up";
  let known = JSON.stringify(page.info);
  let timer = 0;
  const becomes = (/** @type {Serving} */ now) => {
    if (now !== serving) tell.serving((serving = now));
  };
  const ask = async () => {
    timer = 0;
    try {
      const info = await page.client.info();
      const [text, was] = [JSON.stringify(info), serving];
      becomes("up");
      const anew = text !== known && takeInfo(page, info);
      if (text !== known || was !== "up") tell.changed(anew);
      known = text;
    } catch {
      becomes(page.client.serving === "elsewhere" ? "elsewhere" : "lost");
    }
    plan();
  };
  const plan = (wait = followingEvery) => {
    if (timer || !(serving !== "up" || page.info.records.some((record) => record.following))) return;
    timer = window.setTimeout(ask, wait);
  };
  const listener = (/** @type {Serving} */ now) => {
    if (now !== "up") becomes(now);
    clearTimeout(timer);
    timer = 0;
    plan(now === "up" ? 0 : followingEvery);
  };
  page.client.listeners.add(listener);
  page.client.outdated = () => {
    timer ||= window.setTimeout(ask, 0);
  };
  plan();
  return () => {
    page.client.listeners.delete(listener);
    clearTimeout(timer);
    timer = -1; // an answer that is on its way plans nothing more
  };
}

/**
 * Take what is newly known; what was kept of a record that has changed is asked again. Whether one is of another edition.
 * @param {Page} page
 * @param {import("./client.js").Info} info
 */
function takeInfo(page, info) {
  const before = new Map(page.info.records.map((record) => [record.id, JSON.stringify(record)]));
  const editions = new Map(page.info.records.map((record) => [record.id, record.edition]));
  const anew = info.records.some((record) => editions.has(record.id) && editions.get(record.id) !== record.edition);
  page.info = info;
  if (anew) page.kept.clear();
  for (const record of info.records) {
    if (before.get(record.id) === JSON.stringify(record)) continue;
    for (const name of page.kept.keys()) if (name === `numbers ${record.id}` || name.startsWith(`tokens ${record.id} `)) page.kept.delete(name);
  }
  return anew;
}

// Keys for the whole page, wherever in it the focus is; in a notebook, never another cell's.

const keysTyping = "textarea, select, [contenteditable], input:not([type=checkbox], [type=radio], [type=range], [type=button])";

/**
 * Listen to keys pressed in the page, or while nothing has the focus in a window that is the page's own. Keys typed into
 * fields, and those that somebody has used already, are not told.
 * @param {HTMLElement} root
 * @param {(event: KeyboardEvent) => void} listener
 * @returns {() => void} stops listening
 */
export function listenKeys(root, listener) {
  const heard = (/** @type {KeyboardEvent} */ event) => {
    const target = event.composedPath()[0];
    if (!(target instanceof Element) || event.defaultPrevented || event.isComposing || event.metaKey) return;
    const nobodys = target === document.body || target === document.documentElement;
    if (!root.contains(target) && !(nobodys && ownsWindow(root))) return;
    if (target.matches(keysTyping) || root.querySelector("dialog[open]")) return;
    listener(event);
  };
  document.addEventListener("keydown", heard);
  return () => document.removeEventListener("keydown", heard);
}

/**
 * Whether the window shows the page alone, and not a notebook around it.
 * @param {HTMLElement} root
 * @returns {boolean}
 */
export function ownsWindow(root) {
  return root.parentElement === document.body;
}

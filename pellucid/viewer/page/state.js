// What is on screen, as text by name: the same words as the page's address.

/**
 * @typedef {Record<string, string>} State
 * @typedef {(state: State, changed: Set<string>) => void} Listener
 */

/** The state of one page; where it is bound to an address, going back and forward restores it. */
export class ViewState {
  /** @param {State} [initial] */
  constructor(initial = {}) {
    /** @type {State} */
    this.state = { ...initial };
    /** @type {Set<Listener>} */
    this.listeners = new Set();
    /** @type {(() => void) | null} */
    this.release = null;
    /** @type {((replace: boolean) => void) | null} */
    this.write = null;
  }

  /**
   * @param {string} name
   * @param {string} [otherwise]
   * @returns {string}
   */
  get(name, otherwise = "") {
    return this.state[name] ?? otherwise;
  }

  /**
   * Change some of it; null takes a name out. `replace`: no step of its own for going back (a drag, a hover).
   * @param {Record<string, string | null | undefined>} patch
   * @param {{replace?: boolean}} [options]
   */
  set(patch, options = {}) {
    const changed = new Set();
    for (const [name, value] of Object.entries(patch)) {
      if (value === undefined || value === (this.state[name] ?? null)) continue;
      changed.add(name);
      if (value === null) delete this.state[name];
      else this.state[name] = value;
    }
    if (!changed.size) return;
    this.write?.(options.replace ?? false);
    this.tell(changed);
  }

  /**
   * @param {Listener} listener
   * @returns {() => void} stops telling
   */
  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** @param {Set<string>} changed */
  tell(changed) {
    for (const listener of [...this.listeners]) listener(this.state, changed);
  }

  /** Keep the state in the address of the window, and follow it. */
  bindAddress() {
    this.state = fromAddress(location.hash);
    let writing = 0;
    this.write = (replace) => {
      const write = () => {
        writing = 0;
        history.replaceState(null, "", toAddress(this.state) || location.pathname);
      };
      if (!replace) {
        clearTimeout(writing);
        writing = 0;
        history.pushState(null, "", toAddress(this.state) || location.pathname);
      } else if (!writing) writing = window.setTimeout(write, 200); // browsers refuse hundreds of changes in seconds
    };
    const follow = () => {
      const next = fromAddress(location.hash);
      const changed = new Set([...Object.keys(next), ...Object.keys(this.state)].filter((name) => next[name] !== this.state[name]));
      this.state = next;
      if (changed.size) this.tell(changed);
    };
    window.addEventListener("popstate", follow);
    this.release = () => {
      window.removeEventListener("popstate", follow);
      clearTimeout(writing);
    };
  }
}

/**
 * @param {string} hash
 * @returns {State}
 */
export function fromAddress(hash) {
  return Object.fromEntries(new URLSearchParams(hash.replace(/^#/, "")));
}

/**
 * @param {State} state
 * @returns {string}
 */
export function toAddress(state) {
  const text = new URLSearchParams(state).toString().replaceAll("%3A", ":").replaceAll("%2C", ",");
  return text ? `#${text}` : "";
}

/**
 * A visible range `from:to`, or the whole length.
 * @param {string | undefined} text
 * @param {number} length
 * @returns {[number, number]}
 */
export function rangeOf(text, length) {
  const [from, to] = (text ?? "").split(":").map(Number);
  return from < to ? [from, to] : [0, Math.max(length, 1)];
}

/**
 * The numbers of a comma list.
 * @param {string | undefined} text
 * @returns {number[]}
 */
export function numbersOf(text) {
  return (text ?? "").split(",").filter((part) => /^\d+$/.test(part)).map(Number);
}

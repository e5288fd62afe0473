// Finds words in a text of tokens, also where a word is several tokens.

/**
 * Places where a text occurs: first and last token of each, in order. Large and small letters are one.
 * @param {string[]} texts
 * @param {string} wanted
 * @param {boolean} [apart] tokens hold no spaces of their own: then spaces count nowhere, nor the ## of a word that goes on
 * @returns {[number, number][]}
 */
export function findText(texts, wanted, apart = false) {
  const needle = apart ? wanted.toLowerCase().replace(/\s+/g, "") : wanted.toLowerCase();
  if (!needle) return [];
  const parts = texts.map((text) => (apart ? text.replace(/^##(?=.)/, "") : text).toLowerCase());
  const starts = new Float64Array(parts.length + 1);
  for (let i = 0; i < parts.length; i++) starts[i + 1] = starts[i] + parts[i].length;
  const whole = parts.join("");
  /** @type {[number, number][]} */
  const found = [];
  for (let at = whole.indexOf(needle); at >= 0; at = whole.indexOf(needle, at + needle.length)) {
    found.push([findToken(starts, at), findToken(starts, at + needle.length - 1)]);
  }
  return found;
}

/**
 * The token that holds a character: the last that begins at it or before.
 * @param {Float64Array} starts
 * @param {number} at
 * @returns {number}
 */
function findToken(starts, at) {
  let [low, high] = [0, starts.length - 2];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= at) low = middle;
    else high = middle - 1;
  }
  return low;
}

/**
 * The next place found after a token, or before it; round at the ends. -1 where nothing is found.
 * @param {[number, number][]} found
 * @param {number} token
 * @param {1 | -1} step
 * @returns {number}
 */
export function nextFound(found, token, step) {
  if (!found.length) return -1;
  const at = step > 0 ? found.findIndex(([first]) => first > token) : found.findLastIndex(([first]) => first < token);
  return at >= 0 ? at : step > 0 ? 0 : found.length - 1;
}

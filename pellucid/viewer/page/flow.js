// Breaks a text of tokens into lines, by widths that somebody else measures. Knows no page.

/**
 * The pieces of all tokens in their lines. A token is one piece, but where it holds ends of lines or is wider than a line.
 * @typedef {{tokens: number[], from: number[], to: number[], lines: number[], lineOf: Int32Array}} Flow
 *   piece p is shown[tokens[p]].slice(from[p], to[p]); line l has pieces lines[l] up to lines[l + 1]; lineOf[token] is the
 *   line in which a token begins
 * @typedef {{width: number, widthOf: (token: number, text: string) => number, apart?: boolean, gap?: number,
 *   column?: boolean, alone?: Set<number>}} FlowOptions apart: tokens hold no spaces of their own; column: every token begins a
 *   line; alone: tokens that are words of their own, whatever they hold
 */

/**
 * @param {string[]} shown texts of the tokens; an end of a line ends the line
 * @param {FlowOptions} options
 * @returns {Flow}
 */
export function flowText(shown, options) {
  const { width, widthOf, apart = false, gap = 0, column = false, alone = new Set() } = options;
  /** @type {Flow} */
  const flow = { tokens: [], from: [], to: [], lines: [0], lineOf: new Int32Array(shown.length) };
  /** @type {number[]} */
  const widths = [];
  let x = 0;
  let breakAt = 0; // the last piece of this line before which a word begins
  const endLine = (/** @type {number} */ piece) => {
    if (piece > flow.lines[flow.lines.length - 1]) flow.lines.push(piece);
    x = 0;
    for (let p = piece; p < flow.tokens.length; p++) x += widths[p];
    breakAt = piece;
  };
  const put = (/** @type {number} */ token, /** @type {number} */ from, /** @type {number} */ to, /** @type {number} */ wide) => {
    const piece = flow.tokens.length;
    if (alone.has(token) || alone.has(token - 1) || beginsWord(shown, token, from, apart)) breakAt = piece;
    if (x > 0 && x + wide > width) endLine(breakAt > flow.lines[flow.lines.length - 1] ? breakAt : piece);
    if (x > 0 && x + wide > width) endLine(piece);
    flow.tokens.push(token);
    flow.from.push(from);
    flow.to.push(to);
    widths.push(wide);
    x += wide;
  };
  for (let token = 0; token < shown.length; token++) {
    const text = shown[token];
    const space = apart && !text.startsWith("##") ? gap : 0;
    if (column && token) endLine(flow.tokens.length);
    const wide = widthOf(token, text) + space;
    if (wide <= width && !text.includes("\n")) put(token, 0, text.length, wide);
    else {
      for (const [from, to] of piecesOf(text, width - space, (part) => widthOf(token, part))) {
        put(token, from, to, widthOf(token, text.slice(from, to)) + space);
        if (text[to - 1] === "\n") endLine(flow.tokens.length);
      }
    }
  }
  if (flow.lines[flow.lines.length - 1] < flow.tokens.length) flow.lines.push(flow.tokens.length);
  for (let line = flow.lines.length - 2; line >= 0; line--) {
    for (let p = flow.lines[line]; p < flow.lines[line + 1]; p++) if (flow.from[p] === 0) flow.lineOf[flow.tokens[p]] = line;
  }
  return flow;
}

/**
 * Whether a line may begin before a token: at spaces, and at characters that are words of their own.
 * @param {string[]} shown
 * @param {number} token
 * @param {number} from
 * @param {boolean} apart
 */
function beginsWord(shown, token, from, apart) {
  if (from || !token) return true;
  const text = shown[token];
  if (apart) return !text.startsWith("##");
  const before = shown[token - 1];
  return flowStands(text.charCodeAt(0)) || flowStands(before.charCodeAt(before.length - 1));
}

/** @param {number} code of a UTF-16 unit: white space, or of a script that needs none between words */
function flowStands(code) {
  return code <= 0x20 || code === 0xa0 || (code >= 0x2e80 && code < 0xfb00);
}

/**
 * The parts of a long text that fit a width, ends of lines last in theirs.
 * @param {string} text
 * @param {number} width
 * @param {(part: string) => number} widthOf
 * @returns {[number, number][]}
 */
function piecesOf(text, width, widthOf) {
  /** @type {[number, number][]} */
  const found = [];
  let from = 0;
  while (from < text.length) {
    const end = text.indexOf("\n", from);
    const stop = end < 0 ? text.length : end + 1;
    const whole = widthOf(text.slice(from, stop));
    let to = stop;
    if (whole > width) {
      to = Math.min(stop, from + Math.max(1, Math.floor(((stop - from) * width) / whole)));
      while (to > from + 1 && widthOf(text.slice(from, to)) > width) to = from + Math.max(1, Math.floor((to - from) * 0.8));
      if (to < stop && /[\udc00-\udfff]/.test(text[to]) && /[\ud800-\udbff]/.test(text[to - 1])) to += to - from > 1 ? -1 : 1;
    }
    found.push([from, to]);
    from = to;
  }
  return found.length ? found : [[0, 0]];
}

/**
 * Whether tokens have to be set apart to be read: none of them holds a space.
 * @param {string[]} texts
 * @returns {boolean}
 */
export function standApart(texts) {
  return !texts.some((text) => /\s/.test(text));
}

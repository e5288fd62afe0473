// Weights as colours: the maps, the scale between them, and the bar that explains both.

/**
 * @typedef {"linear" | "sqrt" | "log"} ScaleKind
 * @typedef {{kind: ScaleKind, low: number, high: number}} Scale low and high in weights; log needs low > 0
 */

// Each map at 52 places, six digits of hex a colour; between them colours are mixed. The first three are told apart
// with every kind of colour vision; viridis, magma (matplotlib) and cividis are in the public domain (CC0).
/** @type {Record<string, string>} */
const colourPlaces = {
  viridis:
    "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a3a538b38598c355e8d33638d31688e2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d20928c1f978b1e9c891fa18821a58524aa8328ae802eb37c35b7793dbc7446c06f50c46a5ac86465cb5e70cf577cd25089d54895d840a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51dfde725",
  cividis:
    "00224e002656002a5f002d68003070083370163770203a6f273e6e2e416d34456c3a486c3f4c6c444f6c49536c4e566c535a6d575d6d5c616e60646f656870696b716d6f727272747676767a7a787e7d788381798885788d8878928c789690779b9476a09875a59c74aaa073afa471b5a86fbaac6dbfb06bc4b468c9b965cfbd62d4c15fdac65bdfca57e5cf52ead34cf0d846f6dd3ffce236fee838",
  magma:
    "00000402020b0504160907200e0b2b140e361a104221114e29115a311165390f6e420f754a107952137c5a167e6219806a1c81721f81792282812581892881912b81992d80a1307eaa337db2357bba3878c23b75ca3e72d2426fd9466be04c67e75263ec5860f1605df4695cf7725cf97b5dfb8560fc8e64fd9869fea16efeaa74feb47bfebd82fec68afecf92fed89afde2a3fdebacfcf4b6fcfdbf",
  greys:
    "fffffffdfdfdfafafaf8f8f8f6f6f6f3f3f3f1f1f1eeeeeeeaeaeae7e7e7e3e3e3dfdfdfdcdcdcd8d8d8d4d4d4cfcfcfcbcbcbc6c6c6c2c2c2bebebeb8b8b8b2b2b2abababa5a5a59f9f9f9999999393938e8e8e8888888383837d7d7d7878787272726d6d6d6868686363635e5e5e5858585353534d4d4d4646463f3f3f3838383030302929292323231d1d1d1717171111110c0c0c060606000000",
};

export const COLOUR_MAPS = Object.keys(colourPlaces);

/**
 * 256 colours, RGBA.
 * @param {string} name
 * @returns {Uint8Array}
 */
export function colourTable(name) {
  const places = Object.hasOwn(colourPlaces, name) ? colourPlaces[name] : colourPlaces.viridis;
  const count = places.length / 6 - 1;
  const table = new Uint8Array(1024);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * count;
    const low = Math.min(Math.floor(at), count - 1);
    for (let c = 0; c < 3; c++) {
      const [a, b] = [0, 1].map((step) => parseInt(places.substr((low + step) * 6 + c * 2, 2), 16));
      table[i * 4 + c] = Math.round(a + (b - a) * (at - low));
    }
    table[i * 4 + 3] = 255;
  }
  return table;
}

/**
 * 256 colours from blue through the page's background to orange, for differences.
 * @param {boolean} dark
 * @returns {Uint8Array}
 */
export function divergingTable(dark) {
  const ends = [[33, 102, 172], dark ? [24, 24, 27] : [247, 247, 247], [217, 95, 2]];
  const table = new Uint8Array(1024);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * 2;
    const low = at < 1 ? 0 : 1;
    for (let c = 0; c < 3; c++) table[i * 4 + c] = Math.round(ends[low][c] + (ends[low + 1][c] - ends[low][c]) * (at - low));
    table[i * 4 + 3] = 255;
  }
  return table;
}

/**
 * Where a weight, given by its logarithm, is on a scale: 0 to 1, beyond the ends cut off; NaN for NaN.
 * @param {number} log
 * @param {Scale} scale
 * @returns {number}
 */
export function placeOn(log, scale) {
  const of = scaleFunction(scale.kind);
  const [low, high] = [of(Math.log(scale.low)), of(Math.log(scale.high))];
  const at = high > low ? (of(log) - low) / (high - low) : 1;
  return at < 0 ? 0 : at > 1 ? 1 : at;
}

/**
 * What a scale does with a weight's logarithm.
 * @param {ScaleKind} kind
 * @returns {(log: number) => number}
 */
export function scaleFunction(kind) {
  if (kind === "log") return (log) => log;
  return kind === "sqrt" ? (log) => Math.exp(log / 2) : Math.exp;
}

/**
 * The scale that shows what is visible: from its least weight above 0 (log: at most five decades) to its largest.
 * @param {ScaleKind} kind
 * @param {Iterable<Float32Array>} visible logarithms
 * @returns {Scale}
 */
export function fittedScale(kind, visible) {
  let [low, high] = [Infinity, -Infinity];
  for (const logs of visible) {
    for (let i = 0; i < logs.length; i++) {
      const log = logs[i];
      if (log > high) high = log;
      if (log < low && log > -Infinity) low = log;
    }
  }
  return scaleBetween(kind, low, high);
}

/**
 * The scale between the least logarithm above -inf and the largest; infinities where there is none.
 * @param {ScaleKind} kind
 * @param {number} low
 * @param {number} high
 * @returns {Scale}
 */
export function scaleBetween(kind, low, high) {
  if (!(high > -Infinity)) return { kind, low: kind === "log" ? 1e-5 : 0, high: 1 };
  if (kind !== "log") return { kind, low: 0, high: Math.exp(high) };
  low = Math.max(low, high - 5 * Math.LN10);
  return { kind, low: Math.exp(low < high ? low : high - 1), high: Math.exp(high) };
}

/** @param {import("./state.js").State} state @returns {ScaleKind} */
export function scaleKindOf(state) {
  return state.scale === "linear" || state.scale === "sqrt" ? state.scale : "log";
}

/**
 * A range of weights that somebody chose; null where there is none, or none that the scale can show.
 * @param {import("./state.js").State} state
 * @returns {Scale | null}
 */
export function givenScale(state) {
  const kind = scaleKindOf(state);
  const [low, high] = (state.range ?? "").split(":").map(Number);
  return high > low && low >= 0 && (kind !== "log" || low > 0) ? { kind, low, high } : null;
}

/**
 * A scale as the address has it; what cannot be read is fitted.
 * @param {import("./state.js").State} state
 * @param {() => Iterable<Float32Array>} visible
 * @returns {Scale}
 */
export function scaleOf(state, visible) {
  return givenScale(state) ?? fittedScale(scaleKindOf(state), visible());
}

/**
 * Colours of a grid of logarithms. Weight 0 takes `zero`, NaN `nothing`, both [r, g, b, a].
 * @param {Float32Array} logs
 * @param {Scale} scale
 * @param {Uint8Array} table
 * @param {{zero: number[], nothing: number[]}} apart
 * @returns {Uint8ClampedArray}
 */
export function coloured(logs, scale, table, apart) {
  const pixels = new Uint8ClampedArray(logs.length * 4);
  const of = scaleFunction(scale.kind);
  const low = of(Math.log(scale.low));
  const span = of(Math.log(scale.high)) - low;
  for (let i = 0; i < logs.length; i++) {
    const log = logs[i];
    if (log !== log) pixels.set(apart.nothing, i * 4);
    else if (log === -Infinity) pixels.set(apart.zero, i * 4);
    else {
      const at = span > 0 ? (of(log) - low) / span : 1;
      const entry = (at <= 0 ? 0 : at >= 1 ? 255 : Math.round(at * 255)) * 4;
      pixels[i * 4] = table[entry];
      pixels[i * 4 + 1] = table[entry + 1];
      pixels[i * 4 + 2] = table[entry + 2];
      pixels[i * 4 + 3] = 255;
    }
  }
  return pixels;
}

/**
 * A weight in few digits: 0.31, 0.0042, 3.1e-7; 0 for nothing at all.
 * @param {number} weight
 * @returns {string}
 */
export function inDigits(weight) {
  if (Number.isNaN(weight)) return "–";
  if (weight === 0) return "0";
  if (weight >= 0.9995) return weight.toFixed(2);
  return weight >= 1e-3 ? String(Number(weight.toPrecision(3))) : weight.toExponential(1);
}

// Little-endian bytes as numbers.

/** @type {Float32Array | null} */
let halves = null;

/**
 * float16 as float32, by a table of all 65,536.
 * @param {ArrayBuffer} bytes
 * @returns {Float32Array}
 */
export function fromFloat16(bytes) {
  if (halves === null) {
    halves = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits++) halves[bits] = half(bits);
  }
  const table = halves;
  const words = new Uint16Array(bytes);
  const found = new Float32Array(words.length);
  for (let i = 0; i < words.length; i++) found[i] = table[words[i]];
  return found;
}

/**
 * @param {number} bits
 * @returns {number}
 */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

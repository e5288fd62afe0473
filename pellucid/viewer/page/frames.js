// What stands at a place that is no text: a moment of a recording, a patch of a picture.

/**
 * @typedef {import("./client.js").RecordInfo} RecordInfo
 * @typedef {import("./client.js").LayerInfo} LayerInfo
 * @typedef {{sequence: number | null, layers: number[], axis: "queries" | "keys" | "both", start: number, stop: number,
 *   seconds: number, offset: number}} FramesInfo places start up to stop of the axis; place i begins at
 *   offset + (i - start) * seconds
 * @typedef {{index: number, name: string, sequence: number, layers: number[], axis: "queries" | "keys" | "both",
 *   positions: number[], rows: number, columns: number, has_picture: boolean, height: number, width: number}} ImageInfo
 */

/**
 * What applies to an axis of a layer.
 * @template {{sequence: number | null, layers: number[], axis: string}} T
 * @param {T[]} all
 * @param {LayerInfo} layer
 * @param {"queries" | "keys"} axis
 * @param {number} sequence
 * @returns {T[]}
 */
function framesOf(all, layer, axis, sequence) {
  return all.filter(
    (one) => one.layers.includes(layer.number) && (one.axis === axis || one.axis === "both") && (one.sequence ?? sequence) === sequence,
  );
}

/**
 * The images of which a layer's axis holds patches.
 * @param {RecordInfo} record
 * @param {LayerInfo} layer
 * @param {"queries" | "keys"} axis
 * @param {number} [sequence]
 * @returns {ImageInfo[]}
 */
export function imagesOf(record, layer, axis, sequence = 0) {
  return framesOf(/** @type {ImageInfo[]} */ (record.images), layer, axis, sequence);
}

/**
 * The seconds at which a place of an axis begins; null where it is no frame of a recording.
 * @param {RecordInfo} record
 * @param {LayerInfo} layer
 * @param {"queries" | "keys"} axis
 * @param {number} index
 * @param {number} [sequence]
 * @returns {number | null}
 */
export function secondsOf(record, layer, axis, index, sequence = 0) {
  for (const one of framesOf(/** @type {FramesInfo[]} */ (record.frames), layer, axis, sequence)) {
    if (index >= one.start && index < one.stop) return one.offset + (index - one.start) * one.seconds;
  }
  return null;
}

/**
 * What stands at a place of an axis beside a token or in its place: `1.24 s`, `patch 3,5`; null where nothing says.
 * @param {RecordInfo} record
 * @param {LayerInfo} layer
 * @param {"queries" | "keys"} axis
 * @param {number} index
 * @param {number} [sequence]
 * @returns {string | null}
 */
export function placeLabel(record, layer, axis, index, sequence = 0) {
  const seconds = secondsOf(record, layer, axis, index, sequence);
  if (seconds !== null) return `${seconds.toFixed(2)} s`;
  const images = imagesOf(record, layer, axis, sequence);
  for (const image of images) {
    const patch = patchOf(image, index);
    if (patch < 0) continue;
    const which = images.length > 1 ? `${image.name || `image ${image.index}`}, ` : "";
    return `${which}patch ${Math.floor(patch / image.columns)},${patch % image.columns}`;
  }
  return null;
}

const framesPatches = /** @type {WeakMap<ImageInfo, Map<number, number>>} */ (new WeakMap());

/**
 * The number of the patch at a place, row by row; -1 where the place is none of the image's.
 * @param {ImageInfo} image
 * @param {number} index
 * @returns {number}
 */
export function patchOf(image, index) {
  let places = framesPatches.get(image);
  if (!places) framesPatches.set(image, (places = new Map(image.positions.map((place, patch) => [place, patch]))));
  return places.get(index) ?? -1;
}

// What stands at a place that is no text: a moment of a recording, a patch of a picture.

/**
 * @typedef {import("./client.js").RecordInfo} RecordInfo
 * @typedef {import("./client.js").LayerInfo} LayerInfo
 * @typedef {"queries" | "keys"} Axis
 * @typedef {Record<string, Axis | "both">} Axes on which axes of which layers, by their numbers, something lies
 * @typedef {{sequence: number | null, axes: Axes, start: number, stop: number | null, seconds: number, offset: number}} FramesInfo
 *   positions start up to stop of the sequence; position p begins at offset + (p - start) * seconds
 * @typedef {{index: number, name: string, sequence: number, axes: Axes, positions: number[], rows: number, columns: number,
 *   has_picture: boolean, height: number, width: number}} ImageInfo positions in the sequence, row by row
 */

/**
 * What lies on an axis of a layer.
 * @template {{sequence: number | null, axes: Axes}} T
 * @param {T[]} all
 * @param {LayerInfo} layer
 * @param {Axis} axis
 * @param {number} sequence
 * @returns {T[]}
 */
function framesOn(all, layer, axis, sequence) {
  const lies = (/** @type {Axis | "both" | undefined} */ on) => on === axis || on === "both";
  return all.filter((one) => lies(one.axes[layer.number]) && (one.sequence ?? sequence) === sequence);
}

/**
 * The images of which a layer's axis holds patches.
 * @param {RecordInfo} record
 * @param {LayerInfo} layer
 * @param {Axis} axis
 * @param {number} [sequence]
 * @returns {ImageInfo[]}
 */
export function imagesOf(record, layer, axis, sequence = 0) {
  return framesOn(/** @type {ImageInfo[]} */ (record.images), layer, axis, sequence);
}

/**
 * The position in its sequence of a place of an axis: queries may begin later, keys never do.
 * @param {LayerInfo} layer
 * @param {Axis} axis
 * @param {number} index
 */
function framesPosition(layer, axis, index) {
  return axis === "queries" ? layer.query_offset + index : index;
}

/**
 * The seconds at which a place of an axis begins; null where it is no frame of a recording.
 * @param {RecordInfo} record
 * @param {LayerInfo} layer
 * @param {Axis} axis
 * @param {number} index
 * @param {number} [sequence]
 * @returns {number | null}
 */
export function secondsOf(record, layer, axis, index, sequence = 0) {
  const position = framesPosition(layer, axis, index);
  for (const one of framesOn(/** @type {FramesInfo[]} */ (record.frames), layer, axis, sequence)) {
    if (position >= one.start && position < (one.stop ?? Infinity)) return one.offset + (position - one.start) * one.seconds;
  }
  return null;
}

/**
 * What stands at a place of an axis beside a token or in its place: `1.24 s`, `patch 3,5`; null where nothing says.
 * @param {RecordInfo} record
 * @param {LayerInfo} layer
 * @param {Axis} axis
 * @param {number} index
 * @param {number} [sequence]
 * @returns {string | null}
 */
export function placeLabel(record, layer, axis, index, sequence = 0) {
  const seconds = secondsOf(record, layer, axis, index, sequence);
  if (seconds !== null) return `${seconds.toFixed(2)} s`;
  const images = imagesOf(record, layer, axis, sequence);
  for (const image of images) {
    const patch = patchOf(image, framesPosition(layer, axis, index));
    if (patch < 0) continue;
    const which = images.length > 1 ? `${image.name || `image ${image.index}`}, ` : "";
    return `${which}patch ${Math.floor(patch / image.columns)},${patch % image.columns}`;
  }
  return null;
}

const framesPatches = /** @type {WeakMap<ImageInfo, Map<number, number>>} */ (new WeakMap());

/**
 * The number of the patch at a position, row by row; -1 where the position is none of the image's.
 * @param {ImageInfo} image
 * @param {number} position
 * @returns {number}
 */
export function patchOf(image, position) {
  let places = framesPatches.get(image);
  if (!places) framesPatches.set(image, (places = new Map(image.positions.map((place, patch) => [place, patch]))));
  return places.get(position) ?? -1;
}

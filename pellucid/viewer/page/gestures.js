// Pointers over a map as what they mean: moving it, zooming it, looking at a place, choosing one.

/**
 * @typedef {{move: (x: number, y: number) => void, zoom: (factors: {q: number, k: number}, x: number, y: number) => void,
 *   look: (x: number, y: number) => void, leave: () => void, choose: (x: number, y: number) => void,
 *   hold: (held: boolean) => void}} Meaning
 *   places and ways in pixels of the element
 */

const gesturesStill = 5; // pixels that a click may move

/**
 * Hear pointers and the wheel over an element.
 * @param {HTMLElement} element
 * @param {Meaning} meaning
 * @param {() => boolean} wheels whether the wheel zooms now, and does not scroll what is around
 * @returns {() => void} stops hearing
 */
export function hearPointers(element, meaning, wheels) {
  /** @type {Map<number, {x: number, y: number}>} */
  const held = new Map();
  let travelled = 0;
  const place = (/** @type {MouseEvent} */ event) => {
    const box = element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const down = (/** @type {PointerEvent} */ event) => {
    if (event.button > 0) return;
    if (!held.size) travelled = 0;
    held.set(event.pointerId, place(event));
    meaning.hold(true);
    try {
      element.setPointerCapture(event.pointerId);
    } catch {} // a pointer that is gone already
  };
  const moved = (/** @type {PointerEvent} */ event) => {
    const now = place(event);
    const before = held.get(event.pointerId);
    if (!before) return meaning.look(now.x, now.y);
    travelled += Math.hypot(now.x - before.x, now.y - before.y);
    if (held.size === 2) pinched(held, event.pointerId, now, meaning);
    else if (travelled > gesturesStill) meaning.move(now.x - before.x, now.y - before.y);
    else return;
    held.set(event.pointerId, now);
    if (event.pointerType === "mouse") meaning.look(now.x, now.y); // a finger points at nothing while it drags
  };
  const up = (/** @type {PointerEvent} */ event) => {
    if (!held.has(event.pointerId)) return;
    const { x, y } = place(event);
    const alone = held.size === 1;
    held.delete(event.pointerId);
    meaning.hold(held.size > 0);
    if (alone && travelled <= gesturesStill && event.type === "pointerup") meaning.choose(x, y);
  };
  const wheel = (/** @type {WheelEvent} */ event) => {
    if (!wheels()) return;
    event.preventDefault();
    const { x, y } = place(event);
    const unit = event.deltaMode === 1 ? 24 : event.deltaMode === 2 ? 400 : 1;
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY) && !event.shiftKey) return meaning.move(-event.deltaX * unit, 0);
    const way = (event.deltaY || event.deltaX) * unit;
    const factor = Math.exp(-Math.max(-240, Math.min(240, way)) * (event.ctrlKey ? 0.01 : 0.0022));
    meaning.zoom({ q: event.shiftKey ? 1 : factor, k: event.altKey ? 1 : factor }, x, y);
  };
  const twice = (/** @type {MouseEvent} */ event) => {
    const { x, y } = place(event);
    const factor = event.shiftKey ? 0.5 : 2;
    meaning.zoom({ q: factor, k: factor }, x, y);
  };
  /** @type {[string, (event: any) => void][]} */
  const heard = [
    ["pointerdown", down], ["pointermove", moved], ["pointerup", up], ["pointercancel", up], ["pointerleave", () => held.size || meaning.leave()],
    ["wheel", wheel], ["dblclick", twice],
  ];
  for (const [name, listener] of heard) element.addEventListener(name, listener, { passive: false });
  return () => {
    for (const [name, listener] of heard) element.removeEventListener(name, listener);
  };
}

/**
 * Two fingers: what is between them stays between them.
 * @param {Map<number, {x: number, y: number}>} held
 * @param {number} moving
 * @param {{x: number, y: number}} now
 * @param {Meaning} meaning
 */
function pinched(held, moving, now, meaning) {
  const before = /** @type {{x: number, y: number}} */ (held.get(moving));
  const other = [...held].find(([id]) => id !== moving)?.[1] ?? before;
  const apart = (/** @type {{x: number, y: number}} */ point) => Math.max(20, Math.hypot(point.x - other.x, point.y - other.y));
  const factor = apart(now) / apart(before);
  meaning.move((now.x - before.x) / 2, (now.y - before.y) / 2);
  meaning.zoom({ q: factor, k: factor }, (now.x + other.x) / 2, (now.y + other.y) / 2);
}

// The heads of a record as the Heads view has them: filtered, sorted, by numbers with the sink or without.

/**
 * @typedef {import("./client.js").RecordInfo} RecordInfo
 * @typedef {import("./client.js").LayerInfo} LayerInfo
 * @typedef {import("./client.js").Numbers} Numbers
 * @typedef {import("./state.js").State} State
 * @typedef {{id: string, layer: LayerInfo, place: number, number: number, at: number}} Head `at`: its row of the numbers, -1: none
 * @typedef {{sink: "with" | "without", roles: Set<string> | null, kinds: Set<string> | null, sort: string, ascending: boolean,
 *   form: "wall" | "table", x: string, y: string, size: string}} HeadsChoice roles, kinds null: all; sort "": layer by layer
 */

const headsWithout = "_without_sink";
const headsCrossX = ["relative_entropy", "entropy"]; // what cross-attention has numbers of, too
const headsCrossY = ["concentration", "first_mass"];

/**
 * @param {RecordInfo} record
 * @param {Numbers | null} numbers
 * @returns {Head[]}
 */
export function headsOf(record, numbers) {
  const rows = new Map((numbers?.layer ?? []).map((layer, at) => [`${layer}.${numbers?.head[at]}`, at]));
  return record.layers.flatMap((layer) =>
    layer.head_numbers.map((number, place) => {
      const id = `${layer.number}.${place}`;
      return { id, layer, place, number, at: rows.get(id) ?? -1 };
    }),
  );
}

/**
 * @param {State} state
 * @param {Numbers | null} numbers
 * @returns {HeadsChoice}
 */
export function headsChoice(state, numbers) {
  const sort = state.sort ?? "layer";
  const name = sort.replace(/^-/, "");
  const names = numberNames(numbers);
  const axis = (/** @type {string | undefined} */ given, /** @type {string[]} */ likely) =>
    given && names.includes(given) ? given : (likely.find((one) => names.includes(one)) ?? names[0] ?? "");
  return {
    sink: state.sink === "with" ? "with" : "without",
    roles: listed(state.roles),
    kinds: listed(state.kinds),
    sort: names.includes(name) ? name : "",
    ascending: sort.startsWith("-"),
    form: state.form === "table" ? "table" : "wall",
    x: axis(state.x, state.roles === "cross" ? headsCrossX : ["previous", ...headsCrossX]),
    y: axis(state.y, state.roles === "cross" ? headsCrossY : ["induction", ...headsCrossY]),
    size: state.size === "none" ? "" : axis(state.size, ["first_mass"]),
  };
}

/**
 * @param {string | undefined} text
 * @returns {Set<string> | null}
 */
function listed(text) {
  return text ? new Set(text.split(",")) : null;
}

/**
 * The numbers of which some head has a value, by the names that stand for both forms.
 * @param {Numbers | null} numbers
 * @returns {string[]}
 */
export function numberNames(numbers) {
  if (!numbers) return [];
  return Object.keys(numbers.titles).filter((name) => [name, name + headsWithout].some((one) => numbers.numbers[one]?.some((value) => value !== null)));
}

/**
 * The name that a number has where the sink counts, or does not.
 * @param {Numbers} numbers
 * @param {string} name
 * @param {"with" | "without"} sink
 * @returns {string}
 */
export function numberName(numbers, name, sink) {
  return sink === "without" && numbers.paired.includes(name) ? name + headsWithout : name;
}

/**
 * A number in words, as titles and headings have it.
 * @param {Numbers} numbers
 * @param {string} name
 * @param {"with" | "without"} sink
 * @returns {string}
 */
export function numberTitle(numbers, name, sink) {
  const title = numbers.titles[name] ?? name;
  return sink === "without" && numbers.paired.includes(name) ? `${title}, without the sink` : title;
}

/**
 * @param {Numbers | null} numbers
 * @param {Head} head
 * @param {string} name
 * @param {"with" | "without"} sink
 * @returns {number | null}
 */
export function numberOf(numbers, head, name, sink) {
  return numbers?.numbers[numberName(numbers, name, sink)]?.[head.at] ?? null;
}

/**
 * @param {Numbers | null} numbers
 * @param {Head} head
 * @param {"with" | "without"} sink
 * @returns {{kind: string, because: string}} of a head that no numbers tell of: unknown
 */
export function kindOf(numbers, head, sink) {
  const [kinds, because] = sink === "with" ? [numbers?.kind, numbers?.because] : [numbers?.kind_without_sink, numbers?.because_without_sink];
  return { kind: kinds?.[head.at] ?? "unknown", because: because?.[head.at] ?? "" };
}

/**
 * Whether a head is of the roles and kinds that are chosen; as long as no kinds are known, it is.
 * @param {Head} head
 * @param {HeadsChoice} choice
 * @param {Numbers | null} numbers
 * @returns {boolean}
 */
export function isWanted(head, choice, numbers) {
  if (choice.roles && !choice.roles.has(head.layer.role)) return false;
  return !choice.kinds || !numbers || choice.kinds.has(kindOf(numbers, head, choice.sink).kind);
}

/**
 * Heads ordered by a number; those that have none come last, equal ones stay layer by layer.
 * @param {Head[]} heads
 * @param {HeadsChoice} choice
 * @param {Numbers | null} numbers
 * @returns {Head[]}
 */
export function sortedHeads(heads, choice, numbers) {
  if (!choice.sort) return heads;
  const keyed = heads.map((head) => ({ head, value: numberOf(numbers, head, choice.sort, choice.sink) }));
  const sign = choice.ascending ? 1 : -1;
  const order = (/** @type {number | null} */ a, /** @type {number | null} */ b) => (a === null || b === null ? Number(a === null) - Number(b === null) : sign * (a - b));
  return keyed.sort((a, b) => order(a.value, b.value)).map(({ head }) => head);
}

/**
 * How many heads there are of each of some words.
 * @param {Head[]} heads
 * @param {(head: Head) => string} word
 * @returns {Map<string, number>}
 */
export function countsOf(heads, word) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const head of heads) counts.set(word(head), (counts.get(word(head)) ?? 0) + 1);
  return counts;
}

/**
 * Round numbers in a row, in as many digits as they have, which tells them apart.
 * @param {number[]} values
 * @returns {string[]}
 */
export function shownApart(values) {
  const few = values.map(shownNumber);
  return few.every((text, number) => Number(text) === values[number]) ? few : values.map(String);
}

/**
 * A number of a head in few digits.
 * @param {number | null} value
 * @returns {string}
 */
export function shownNumber(value) {
  if (value === null) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : String(Number(value.toPrecision(size < 0.1 ? 2 : 3)));
}

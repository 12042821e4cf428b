// JSON whose numbers keep the digits they were written with: 9007199254740993 and 10.10 are no doubles.
const MARK = `digits ${crypto.getRandomValues(new Uint32Array(4)).join("")} `; // nobody outside can know it
const MARKED = new RegExp(`"${MARK}([^"]*)"`, "g");
const PARTS = /"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?/g;

/** A number that a double would change. */
export class Digits {
  constructor(text) { this.text = text; }
}

/** Parse JSON; throws a SyntaxError as JSON.parse does. */
export function read(text) {
  JSON.parse(text); // its words are of the text as it is
  const marked = text.replace(PARTS, (part) => (part.startsWith('"') || String(Number(part)) === part ? part : `"${MARK}${part}"`));
  return JSON.parse(marked, (_, value) => (typeof value === "string" && value.startsWith(MARK) ? new Digits(value.slice(MARK.length)) : value));
}

/** Return the JSON of a value. */
export function write(value, indent) {
  return JSON.stringify(value, (_, each) => (each instanceof Digits ? MARK + each.text : each), indent)?.replace(MARKED, "$1");
}

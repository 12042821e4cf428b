// A JSON value as a tree of text nodes: hostile strings stay text.
import { Digits } from "./digits.js";

const DEEP = 3; // levels that are open at first

function leaf(kind, text) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = text;
  return made;
}

/** Return nodes for a JSON value, under a name if it has one. */
export function tree(value, depth = 0, name = null) {
  const called = name === null ? [] : [leaf("name", JSON.stringify(name)), ": "];
  const list = Array.isArray(value);
  const exact = value instanceof Digits;
  const entries = value !== null && typeof value === "object" && !exact ? Object.entries(value) : [];
  const made = document.createElement(entries.length ? "details" : "span");
  if (!entries.length) {
    made.append(...called, leaf(typeof value === "string" ? "string" : "literal", exact ? value.text : JSON.stringify(value)));
    return made;
  }
  made.open = depth < DEEP;
  const summary = document.createElement("summary");
  summary.append(...called, leaf("count", list ? `[ ${entries.length} ]` : `{ ${entries.length} }`));
  const items = document.createElement("ul");
  for (const [key, inner] of entries) {
    const item = document.createElement("li");
    item.append(tree(inner, depth + 1, list ? null : key));
    items.append(item);
  }
  made.append(summary, items);
  return made;
}

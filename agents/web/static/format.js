// Writes values as formatting.py does; an unknown one is `unknown`, never 0.
export const UNKNOWN = "unknown";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

const three = (value) => {
  if (value >= 100) return value.toFixed(0);
  return String(Number(value.toFixed(value >= 10 ? 1 : 2)));
};

export function number(value) {
  if (!isNumber(value)) return UNKNOWN;
  return value < 100 && !Number.isInteger(value) ? value.toFixed(1) : Math.round(value).toLocaleString("en-US");
}

export function duration(seconds) {
  if (!isNumber(seconds)) return UNKNOWN;
  if (seconds < 1) return `${three(seconds * 1000)} ms`;
  if (seconds < 60) return `${three(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
}

export function percent(share) {
  if (!isNumber(share)) return UNKNOWN;
  const tenths = Math.floor(share * 1000 + 1e-9);
  return share > 0 && tenths === 0 ? "<0.1 %" : `${tenths / 10} %`;
}

/** The time of day in UTC, as all times on the pages are. */
export const clock = (date) => date.toISOString().slice(11, 19);

export const BAD = new Set(["unreachable", "timeout", "upstream_error", "overloaded"]);
export const tone = (outcome) => (outcome === "ok" ? "ok" : BAD.has(outcome) ? "bad" : "warn");

/** A key so that it can be seen: what does not print, or only makes room, in quotes and escaped. */
export function visible(text) {
  if (text && text === text.trim() && !/[\p{C}\p{Zl}\p{Zp}]/u.test(text)) return text;
  const escaped = (each) => `\\u${each.codePointAt(0).toString(16).padStart(4, "0")}`;
  return `"${text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, escaped)}"`;
}

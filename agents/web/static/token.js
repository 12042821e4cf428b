// The token: kept in this tab's session storage, sent in a header of its own, never in a cookie or an address. Not as
// Authorization: a proxy in front may have a login there.
import { read, write } from "./digits.js";

const NAME = "millrace-token";

/** Fill a field with the token that was typed before. */
export function recall(field) {
  try { field.value = sessionStorage.getItem(NAME) ?? ""; } catch { /* typed anew each time */ }
}

/** POST a value with the token in the field; returns the response and its body, read as JSON. */
export async function post(path, value, field) {
  const token = field.value.trim();
  try { sessionStorage.setItem(NAME, token); } catch { /* for this once */ }
  const headers = { "Content-Type": "application/json", Accept: "application/json" };
  if (token) headers["X-Millrace-Token"] = token.replace(/[^\x21-\x7e]/g, "?");
  const response = await fetch(path, { method: "POST", headers, body: write(value) });
  const text = await response.text();
  try { return { response, body: read(text) }; } catch { return { response, body: { detail: text } }; }
}

/** Return the error of a response as text. */
export function trouble({ response, body }) {
  const fields = (body.errors ?? []).map((each) => `${each.field}: ${each.message}`);
  return [body.detail ?? response.statusText, ...fields].join("; ");
}

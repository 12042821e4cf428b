// Answers as they come, newest first. What is shown is text, never markup.
import { duration, number, tone, visible } from "./format.js";
import { stream } from "./stream.js";

const MOST = 200; // rows kept
const PAUSE = 250; // ms without a key before the filters are taken
const form = document.getElementById("filter");
const body = document.querySelector("#tail tbody");
const state = document.getElementById("tail-state");
let filling = null; // what the rows of a filter are asked for with
let shown = 0, dropped = 0, missed = 0, passed = 0, waiting = 0;

function cell(kind, ...content) {
  const made = document.createElement("td");
  if (kind) made.className = kind;
  made.append(...content);
  return made;
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}

function rowOf(row) {
  const made = element("tr", { className: "arrived" });
  const key = element("a", { className: "key", href: row.href, textContent: visible(row.key ?? row.key_base64 ?? "").slice(0, 60) });
  key.dataset.row = "";
  const what = String(row.error?.message ?? row.url ?? row.source ?? "–");
  made.append(
    cell("time", element("time", { dateTime: row.at, title: row.at, textContent: row.at.slice(11, 19) })),
    cell("key", key),
    cell("", element("span", { className: `outcome ${tone(row.outcome)}`, textContent: row.outcome })),
    cell("", row.cache ?? "–"),
    cell("count", String(row.status ?? "–")),
    cell("ms", row.elapsed_ms === undefined ? "–" : duration(row.elapsed_ms / 1000)),
    cell("code", element("code", { textContent: what })),
  );
  return made;
}

function tell() {
  const parts = [`${number(shown)} answers since this page was opened`];
  if (dropped) parts.push(`${number(dropped)} more came too fast to be shown`);
  if (missed) parts.push(`${number(missed)} events were lost on the way`);
  if (passed) parts.push(`${number(passed)} passed while paused`);
  state.textContent = parts.join(", ");
}

stream.addEventListener("results", ({ data }) => {
  dropped += data.dropped ?? 0;
  if (stream.paused) passed += data.rows.length;
  else {
    shown += data.rows.length;
    body.querySelector("tr.none")?.remove();
    body.prepend(...data.rows.map(rowOf).reverse());
    while (body.rows.length > MOST) body.lastElementChild.remove();
  }
  tell();
});

stream.addEventListener("dropped", ({ data }) => {
  missed += data.events;
  tell();
});

const terms = () => new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));

function connect() {
  const query = terms();
  query.set("tail", "1");
  stream.connect(`?${query}`);
}

function filter() {
  history.replaceState(null, "", `/live?${terms()}`);
  shown = dropped = missed = passed = 0;
  connect();
  return fill();
}

/** Show the latest answers of the tables, and above them what has come since they were asked for. */
async function fill() {
  filling?.abort();
  const mine = filling = new AbortController();
  const former = [...body.children];
  try {
    const response = await fetch(location.href, { signal: mine.signal });
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    const rows = fresh.querySelector("#tail tbody");
    if (!rows) return;
    for (const row of former) row.remove();
    const come = new Set([...body.querySelectorAll("a.key")].map((link) => link.href));
    const found = [...document.importNode(rows, true).children];
    body.append(...found.filter((row) => (row.className === "none" ? !come.size : !come.has(row.querySelector("a.key")?.href))));
  } catch {
    // Aborted by the next filter, or the connection is lost, which the stream shows.
  }
  tell();
}

form.addEventListener("submit", (event) => { event.preventDefault(); filter(); });
form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, PAUSE); });
stream.addEventListener("woken", () => { if (!stream.paused) fill(); });
connect();

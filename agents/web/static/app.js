// What every page has: the stream and its state, pause, theme, keys, copying.
import { clock } from "./format.js";
import { refresh, refreshSoon } from "./refresh.js";
import { stream } from "./stream.js";

const byId = (id) => document.getElementById(id);

// The connection
const line = byId("connection");
function showState() {
  line.className = `connection ${stream.state}`;
  const text = {
    live: () => "Live",
    paused: () => "Paused",
    lost: () => `Connection lost at ${clock(stream.lostSince)} UTC, trying again`,
  }[stream.state]();
  if (byId("connection-text").textContent !== text) byId("connection-text").textContent = text;
}
stream.addEventListener("state", showState);
if (stream.known) showState();
for (const name of ["overview", "alive"]) {
  stream.addEventListener(name, () => {
    if (stream.paused) return;
    byId("as-of").textContent = `${clock(new Date())} UTC`;
    refreshSoon();
  });
}
if (!byId("tail")) stream.connect();

// Pause
const pause = byId("pause");
pause.hidden = false;
function togglePause() {
  stream.pause(!stream.paused);
  pause.setAttribute("aria-pressed", String(stream.paused));
  if (!stream.paused) refresh();
}
pause.addEventListener("click", togglePause);

// Theme
const theme = byId("theme");
const THEMES = ["system", "light", "dark"];
const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const store = (name, value) => { try { localStorage.setItem(name, value); } catch { /* for this page only */ } };
function setTheme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  theme.textContent = `Theme: ${name}`;
  theme.dataset.name = name;
  document.dispatchEvent(new Event("theme"));
}
setTheme(THEMES.includes(stored("theme")) ? stored("theme") : "system");
theme.hidden = false;
theme.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(theme.dataset.name) + 1) % THEMES.length];
  store("theme", next);
  setTheme(next);
});

// Keys; they can be turned off (WCAG 2.1.4)
const help = byId("help");
const keysOn = byId("keys-on");
keysOn.checked = stored("keys") !== "off";
keysOn.addEventListener("change", () => store("keys", keysOn.checked ? "on" : "off"));
byId("help-button").hidden = false;
byId("help-button").addEventListener("click", () => help.showModal());

const PAGES = { o: "/", l: "/live", t: "/tables", r: "/routes", h: "/hosts", p: "/partitions", w: "/workers", e: "/errors", s: "/send" };
const typing = (element) => element.matches("input:not([type=checkbox]), textarea, select, [contenteditable]");
let going = 0;

function step(by) {
  const rows = [...document.querySelectorAll("[data-row]")].filter((row) => row.checkVisibility());
  const here = rows.findIndex((row) => row === document.activeElement);
  rows[Math.min(Math.max(here + by, 0), rows.length - 1)]?.focus();
}

const KEYS = {
  "/": () => { const field = document.querySelector("[data-search]"); field?.focus(); field?.select?.(); },
  "?": () => help.showModal(),
  j: () => step(1),
  k: () => step(-1),
  p: togglePause,
  g: () => { going = Date.now(); },
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && typing(event.target)) { event.target.blur(); return; }
  if (!keysOn.checked || help.open || event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  if (Date.now() - going < 1000 && PAGES[event.key]) {
    event.preventDefault();
    location.assign(PAGES[event.key]);
    return;
  }
  if (Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

// Copying; only where the browser allows it
function showCopies() {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("[data-copy], [data-copy-link]")) {
    button.hidden = Boolean(button.dataset.copy) && !document.querySelector(button.dataset.copy)?.dataset.json;
  }
}
showCopies();
for (const name of ["refreshed", "answered"]) document.addEventListener(name, showCopies);
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-link]");
  if (!button) return;
  const text = button.dataset.copy ? document.querySelector(button.dataset.copy).dataset.json : location.href;
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => { button.textContent = label; }, 1500);
});

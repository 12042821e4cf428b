// Keeps the parts marked data-live like a fresh copy of the same page from the server.
import { clock } from "./format.js";
import { patch } from "./patch.js";

// A page is requested again after this many times the time that its last response took, so that it costs a worker little,
// but after so many milliseconds at the latest: a busy worker takes long without working much.
const SHARE = 20;
const LATEST = 5000;
let under = null;
let rested = 0;
let taken = new Date();

/** Request the page again, unless the last response took too long to do so yet. */
export function refreshSoon() {
  if (under === null && performance.now() >= rested && document.visibilityState === "visible") return refresh();
  return null;
}

/** Request the page at its present address now; a request in progress is aborted. */
export async function refresh() {
  if (!document.querySelector("[data-live]")) return;
  under?.abort();
  const mine = new AbortController();
  under = mine;
  try {
    const response = await fetch(location.href, { signal: mine.signal, headers: { Accept: "text/html" } });
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    const [, took] = /dur=([\d.]+)/.exec(response.headers.get("Server-Timing") ?? "dur=0");
    rested = performance.now() + Math.min(LATEST, SHARE * Number(took));
    if (under !== mine) return;
    if (fresh.querySelector("[data-live], [data-problem]")) take(fresh);
    else stale(`the server answered ${response.status}`); // a proxy's own page, or too many requests
  } catch {
    // Connection lost, or aborted: the stream shows which.
  } finally {
    if (under === mine) under = null;
  }
}

function take(fresh) {
  const problem = fresh.querySelector("[data-problem]");
  if (document.querySelector("[data-problem]") && !problem) {
    location.reload(); // what was missing is there now
    return;
  }
  if (problem && !document.querySelector("[data-problem]")) {
    stale(problem.textContent);
    return;
  }
  document.getElementById("stale")?.remove();
  for (const part of document.querySelectorAll("[data-live]")) {
    const found = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
    const unless = part.dataset.liveUnless;
    if (found && !(unless && part.querySelector(unless))) patch(part, found);
  }
  taken = new Date();
  document.dispatchEvent(new Event("refreshed"));
}

/** Say that what is shown is no longer kept up to date, and why. */
function stale(why) {
  let notice = document.getElementById("stale");
  if (!notice) {
    notice = Object.assign(document.createElement("div"), { id: "stale", className: "notice warn" });
    notice.setAttribute("role", "status");
    document.querySelector("main h1").after(notice);
  }
  const text = `Shown as of ${clock(taken)} UTC: ${why.trim()}`;
  if (notice.textContent !== text) notice.textContent = text;
}

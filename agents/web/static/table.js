// Search as you type: the address follows the form, the rows follow the address.
import { refresh } from "./refresh.js";

const PAUSE = 80; // ms after the last key before it is requested
let waiting = 0;

function follow(form) {
  const terms = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
  history.replaceState(null, "", `${form.action}?${terms}`);
  const rows = document.getElementById("rows");
  rows?.setAttribute("aria-busy", "true");
  refresh().finally(() => rows?.setAttribute("aria-busy", "false"));
}

document.addEventListener("input", (event) => {
  const form = event.target.closest("#search");
  if (!form) return;
  clearTimeout(waiting);
  waiting = setTimeout(follow, PAUSE, form);
});
document.addEventListener("submit", (event) => {
  if (event.target.id !== "search") return;
  event.preventDefault();
  clearTimeout(waiting);
  follow(event.target);
});

// Choosing dead letters and putting them back on the requests topic.
import { refresh } from "./refresh.js";
import { post, recall, trouble } from "./token.js";

const form = document.getElementById("redrive");
const button = document.getElementById("redrive-button");
const state = document.getElementById("redrive-state");

function chosen() {
  return [...document.querySelectorAll("#letters input[name=letter]:checked")];
}

function ready() {
  const boxes = document.querySelectorAll("#letters input[name=letter]");
  for (const box of document.querySelectorAll("#letters input")) box.hidden = false;
  const count = chosen().length;
  const all = document.getElementById("all");
  if (all) {
    all.checked = count > 0 && count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
  }
  button.disabled = count === 0;
  button.textContent = count ? `Put ${count} back on requests` : "Put back on requests";
}

if (form) {
  form.hidden = false;
  recall(form.elements.token);
  ready();
  document.addEventListener("change", (event) => {
    if (event.target.id === "all") {
      for (const box of document.querySelectorAll("#letters input[name=letter]")) box.checked = event.target.checked;
    }
    ready();
  });
  document.addEventListener("refreshed", ready);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const letters = chosen().map(({ value }) => {
      const [partition, offset] = value.split("-").map(Number);
      return { partition, offset };
    });
    button.disabled = true;
    try {
      const reply = await post("/api/redrive", { letters }, form.elements.token);
      if (reply.response.ok) {
        const refused = (reply.body.letters ?? []).filter((each) => each.reason).map((each) => each.reason);
        state.textContent = [`Put back: ${reply.body.redriven} of ${letters.length}`, ...new Set(refused)].join("; ");
        for (const box of chosen()) box.checked = false;
        await refresh();
      } else {
        state.textContent = `Not put back (${reply.response.status}): ${trouble(reply)}`;
      }
    } catch {
      state.textContent = "Not put back: no connection to the worker.";
    }
    ready();
  });
}

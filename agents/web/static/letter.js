// A dead letter as its sender sent it: key, value and headers, and its last result, for who has the token. All of it is
// put in as text.
import { read } from "./digits.js";
import { tree } from "./json.js";
import { post, trouble } from "./token.js";

const dialog = document.getElementById("letter");
const body = document.getElementById("letter-body");
const field = document.getElementById("redrive").elements.token;

function show() {
  for (const button of document.querySelectorAll("[data-letter]")) button.hidden = false;
}

function named(name, ...shown) {
  const made = document.createElement("p");
  const label = document.createElement("strong");
  label.textContent = name;
  made.append(label, document.createElement("br"), ...shown);
  return made;
}

function text(value) {
  const made = document.createElement("code");
  made.textContent = value;
  return made;
}

function bytes(each, name) {
  if (typeof each[name] === "string") return each[name];
  const coded = each[`${name}_base64`];
  return coded === undefined ? "null" : `base64: ${coded}`;
}

function value(letter) {
  try {
    const found = read(letter.value);
    if (found !== null && typeof found === "object") return tree(found);
  } catch { /* it is no JSON */ }
  return text(bytes(letter, "value"));
}

function result(letter) {
  const last = letter.last_result;
  if (!last) return named("Last result", `Not there: ${letter.no_result ?? "unknown"}`);
  const label = last.latest ? "Last result" : "Result published with this letter";
  return named(`${label}: partition ${last.partition}, offset ${last.offset}, ${last.at}`, value(last));
}

function fill(letter) {
  const origin = letter.origin ? `${letter.origin.topic}-${letter.origin.partition} offset ${letter.origin.offset}` : "unknown";
  const headers = document.createElement("ul");
  for (const each of letter.headers) {
    const item = document.createElement("li");
    item.append(text(`${each.name}: ${bytes(each, "value")}`));
    headers.append(item);
  }
  const key = letter.key ?? (letter.key_base64 === undefined ? "none" : `base64: ${letter.key_base64}`);
  body.replaceChildren(
    named("Outcome", `${letter.outcome ?? "unknown"}: ${letter.message ?? "no message"}`),
    named("From", text(origin)), named("Deliveries", String(letter.attempts)), named("Key", text(key)),
    named("Value", value(letter)), named("Headers", headers), result(letter),
  );
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-letter]");
  if (!button) return;
  const [partition, offset] = button.dataset.letter.split("-").map(Number);
  body.textContent = "Reading it from Kafka …";
  dialog.showModal();
  try {
    const reply = await post("/api/letter", { partition, offset }, field);
    if (reply.response.ok) fill(reply.body);
    else body.textContent = `Not shown (${reply.response.status}): ${trouble(reply)}`;
  } catch {
    body.textContent = "Not shown: no connection to the worker.";
  }
});
document.addEventListener("refreshed", show);
show();

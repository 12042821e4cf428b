// The form of one request: made into JSON, posted, and its answer shown.
import { read, write } from "./digits.js";
import { tree } from "./json.js";
import { post, recall, trouble } from "./token.js";

const WAIT = 10; // seconds that the answer is waited for
const form = document.getElementById("send");
const button = document.getElementById("send-button");
const state = document.getElementById("send-state");
const answer = document.getElementById("answer");
const field = (name) => form.elements[name];

recall(field("token"));
field("source").addEventListener("change", byKind);
byKind();

function byKind() {
  const named = field("source").value !== "";
  form.querySelector("[data-for=url]").hidden = named;
  form.querySelector("[data-for=source]").hidden = !named;
}

/** JSON from a field, or nothing when it is empty. Throws a sentence that names the field. */
function json(name) {
  const text = field(name).value.trim();
  if (!text) return undefined;
  try {
    return read(text);
  } catch (error) {
    throw new Error(`${name} is not JSON: ${error.message}`);
  }
}

function figure(name) {
  const text = field(name).value.trim();
  if (!text) return undefined;
  if (!Number.isFinite(Number(text))) throw new Error(`${name} is not a number`);
  return Number(text);
}

function body() {
  try { return json("body"); } catch { return field("body").value; }
}

function request() {
  const source = field("source").value;
  const made = source ? { source, params: json("params") ?? {} } : { url: field("url").value.trim() };
  if (!source && !made.url) throw new Error("url: enter one, or choose a source");
  if (!source && field("method").value !== "GET") made.method = field("method").value;
  if (field("schema").value !== "json") made.schema = field("schema").value;
  return Object.assign(made, {
    headers: json("headers"), body: body(), checks: json("checks"), max_age: figure("max_age"), timeout: figure("timeout"),
  });
}

function show(value) {
  answer.replaceChildren();
  const made = document.createElement("div");
  made.className = "tree";
  made.append(tree(value));
  answer.append(made);
  answer.dataset.json = write(value, 2);
  document.dispatchEvent(new Event("answered"));
}

async function send() {
  const made = request();
  const terms = new URLSearchParams({ wait: String(WAIT) });
  if (field("key").value) terms.set("key", field("key").value);
  state.textContent = "Sent; waiting for the answer…";
  const begun = performance.now();
  const reply = await post(`/api/requests?${terms}`, made, field("token"));
  const took = `${Math.round(performance.now() - begun)} ms`;
  if (reply.response.status === 200) {
    state.textContent = `Answered after ${took}: ${reply.body.outcome}`;
    show(reply.body);
  } else if (reply.response.status === 202) {
    state.textContent = `Accepted as ${reply.body.id}; no result within ${WAIT} s. It will be on the results topic, and in the table answers.`;
    show(reply.body);
  } else {
    state.textContent = `Not sent (${reply.response.status}): ${trouble(reply)}`;
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  answer.replaceChildren();
  try {
    await send();
  } catch (error) {
    state.textContent = error instanceof TypeError ? "Not sent: no connection to the worker." : `Not sent: ${error.message}`;
  } finally {
    button.disabled = false;
  }
});

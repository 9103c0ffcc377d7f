// The right-hand side of an operation: a request to edit, as a curl line to copy and as a form to send.

import { code, copyButton, element } from "./elements.js";
import { resolve } from "./schema.js";

// The page is `<base>/docs`, behind whatever proxy.
const BASE = location.href.split(/[?#]/)[0].replace(/\/docs\/?$/, "");

// Its value is all there is of the token: it goes into no storage, no address and no text of the page.
const TOKEN = document.getElementById("token");
TOKEN.form.addEventListener("submit", (event) => event.preventDefault());

/** parameters: resolved. Returns the elements of the panel. */
export function requestPanel(method, path, operation, parameters) {
  const id = operation.operationId;
  const fields = parameters.map((parameter) => parameterField(id, parameter));
  const content = Object.entries(operation.requestBody?.content || {});
  const body = content.length ? bodyField(id, content) : null;
  const line = element("code");
  const open = !operation.security?.length;
  const read = () => ({ ...request(method, path, fields, body), authorized: !open && TOKEN.value.trim() !== "" });
  const write = () => (line.textContent = curl(read()));
  const form = element(
    "form", { oninput: write, onchange: write },
    fields.length ? element("div.fields", {}, fields.map((field) => field.view)) : null,
    body ? body.view : null,
  );
  sendButton(form, read, id);
  TOKEN.addEventListener("input", write);
  write();
  return [
    element(
      "div.card", {},
      element("div.bar", {}, element("h4", {}, "Request"), copyButton(() => line.textContent, "the curl line")),
      element("pre.curl", { tabindex: "0", role: "region", "aria-label": "curl line" }, line),
      element("details.try", {}, element("summary", {}, "Change it and try it"), form),
    ),
  ];
}

function parameterField(id, parameter) {
  const name = `${id}-${parameter.in}-${parameter.name}`;
  // An optional header would only make the curl line longer.
  const given = parameter.in === "header" ? "" : parameter.example ?? "";
  const allowed = parameter.schema.enum || (parameter.schema.type === "boolean" ? ["true", "false"] : null);
  const input = allowed
    ? element("select", { id: name }, element("option", { value: "" }, "–"), allowed.map((one) => element("option", {}, one)))
    : element("input", { id: name, type: "text", autocomplete: "off", spellcheck: "false", required: parameter.required, placeholder: parameter.schema.type === "array" ? "one,two" : null });
  input.value = Array.isArray(given) ? given.join(",") : given;
  if (parameter.in === "path" && parameter.name === "id") input.dataset.fill = "task";
  const view = element(
    "label", { for: name },
    element("span", {}, parameter.name, parameter.required ? element("em", {}, " required") : element("em", {}, ` ${parameter.in}`)),
    input,
  );
  return { parameter, input, view };
}

function bodyField(id, content) {
  const area = element("textarea", { id: `${id}-body`, rows: "8", spellcheck: "false", autocomplete: "off" });
  const examples = content.flatMap(([media, { examples = {} }]) =>
    Object.entries(examples).map(([name, { value }]) => ({ media, name, text: typeof value === "string" ? value : JSON.stringify(value, null, 2) })),
  );
  const label = (one) => (one.media === "application/json" ? one.name : `${one.name} (${one.media})`);
  const choice = element("select", { id: `${id}-example` }, examples.map((one, at) => element("option", { value: String(at) }, label(one))));
  const chosen = () => examples[Number(choice.value)];
  const fill = () => (area.value = chosen().text);
  choice.addEventListener("change", fill);
  fill();
  const view = element(
    "div.body", {},
    examples.length > 1 ? element("label", { for: choice.id }, element("span", {}, "Start from"), choice) : null,
    element("label", { for: area.id }, element("span", {}, "Body"), area),
  );
  return { view, read: () => ({ media: chosen().media, text: area.value }) };
}

/** What the form says now: method, url, headers, body. */
function request(method, path, fields, body) {
  const headers = [];
  const query = [];
  for (const { parameter, input } of fields) {
    const value = input.value;
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (value === "") continue;
    else if (parameter.in === "header") headers.push([parameter.name, value]);
    else {
      const values = parameter.schema.type === "array" && parameter.explode !== false ? value.split(",") : [value];
      query.push(...values.map((one) => `${parameter.name}=${encodeURIComponent(one).replaceAll("%3A", ":").replaceAll("%2C", ",")}`));
    }
  }
  const sent = body ? body.read() : null;
  if (sent) headers.push(["Content-Type", sent.media]);
  return { method, url: BASE + path + (query.length ? `?${query.join("&")}` : ""), headers, body: sent && sent.text };
}

function curl({ method, url, headers, body, authorized }) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = [`curl${method === "GET" || (method === "POST" && body != null) ? "" : ` -X ${method}`} ${quote(url)}`];
  if (authorized) parts.push('-H "Authorization: Bearer $GATEWAY_TOKEN"');
  for (const [name, value] of headers) parts.push(`-H ${quote(`${name}: ${value}`)}`);
  if (body != null) parts.push(`-d ${quote(body)}`);
  return parts.join(" \\\n  ");
}

function sendButton(form, read, id) {
  const send = element("button.send", { type: "submit" }, "Send");
  const stop = element("button", { type: "button", hidden: true }, "Stop waiting");
  const result = element("div.result", { role: "status" });
  form.append(element("div.actions", {}, send, stop), result);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { method, url, headers, body, authorized } = read();
    if (authorized) headers.push(["Authorization", `Bearer ${TOKEN.value.trim()}`]);
    const giveUp = new AbortController();
    stop.onclick = () => giveUp.abort();
    send.disabled = true;
    stop.hidden = false;
    result.replaceChildren(element("p", {}, "Waiting for the reply …"));
    const began = performance.now();
    try {
      const reply = await fetch(url, { method, headers, body: body ?? undefined, signal: giveUp.signal, cache: "no-store", redirect: "error" });
      const text = await reply.text();
      result.replaceChildren(...replyView(reply, text, performance.now() - began));
      if (id === "enqueueTask" && reply.ok) fillTask(text);
    } catch (error) {
      result.replaceChildren(element("p.bad", {}, error.name === "AbortError" ? "Stopped waiting." : `No reply: ${error.message}`));
    }
    send.disabled = false;
    stop.hidden = true;
  });
}

function replyView(reply, text, ms) {
  const json = /json/.test(reply.headers.get("content-type") || "");
  return [
    element(`p.${reply.ok ? "good" : "bad"}`, {}, element("strong", {}, `${reply.status} ${reply.statusText}`), ` in ${Math.round(ms)} ms`),
    element("details", {}, element("summary", {}, "Headers"), code([...reply.headers].map((pair) => pair.join(": ")).join("\n"), "Headers of the reply")),
    text ? code(json ? indent(text) : text, "Body of the reply") : element("p", {}, "No body."),
  ];
}

/** Put the task just made into the other forms. */
function fillTask(text) {
  const made = JSON.parse(text);
  const task = made.id || made.tasks?.[0]?.id;
  if (!task) return;
  for (const input of document.querySelectorAll("[data-fill=task]")) {
    if (!input.closest("[data-path^='/tasks/']")) continue;
    input.value = task;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
}

/** Indent JSON without reading its numbers: 1e400 and 1.0 stay what they are. */
function indent(text) {
  let depth = 0;
  const line = () => "\n" + "  ".repeat(depth);
  return text.replace(/"(?:[^"\\]|\\.)*"|\[\s*\]|\{\s*\}|[[\]{},:]|\s+/g, (token) => {
    if (token === "{" || token === "[") return ++depth, token + line();
    if (token === "}" || token === "]") return --depth, line() + token;
    if (token === ",") return token + line();
    if (token === ":") return ": ";
    return token.trim();
  });
}

/** Named examples of a reply's bodies, resolved. */
export function examplesOf(response) {
  return Object.entries(resolve(response).content || {}).flatMap(([media, { examples = {} }]) =>
    Object.entries(examples).map(([name, { value }]) => ({ media, name, text: typeof value === "string" ? value : JSON.stringify(value, null, 2) })),
  );
}

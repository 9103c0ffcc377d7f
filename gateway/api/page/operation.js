// One operation as a section: what it takes, what it answers, and beside it the request and the replies as they look.

import { code, copyButton, element, inline, prose } from "./elements.js";
import { examplesOf, requestPanel } from "./request.js";
import { about, facts, resolve, schemaView } from "./schema.js";

/** The section of an operation. Its id is the operationId. */
export function operationView(method, path, operation) {
  const id = operation.operationId;
  // What every operation takes stands in the guide.
  const parameters = (operation.parameters || []).filter(({ $ref = "" }) => !$ref.endsWith("/RequestId")).map(resolve);
  const responses = Object.entries(operation.responses).map(([status, response]) => [status, resolve(response)]);
  return element(
    "section.operation", { id, "aria-labelledby": `${id}-title`, "data-path": path },
    element(
      "h3", { id: `${id}-title` },
      element("span.summary", {}, operation.summary), " ",
      element("a.anchor", { href: `#${id}`, "aria-label": `Link to ${operation.summary}` }, "#"),
    ),
    element("p.route", {}, element(`span.method.${method.toLowerCase()}`, {}, method), " ", element("code", {}, path)),
    element(
      "div.sides", {},
      element(
        "div.facts", {},
        prose(operation.description || "", "h4"),
        parametersView(parameters, id),
        bodiesView(operation.requestBody),
        repliesView(responses),
        refusalsView(responses, id),
      ),
      element("div.examples", {}, requestPanel(method, path, operation, parameters), repliesPanel(responses)),
    ),
  );
}

function parametersView(parameters, id) {
  if (!parameters.length) return null;
  const rows = parameters.map((one) =>
    element(
      "tr", {},
      element("th", { scope: "row" }, element("code.key", {}, one.name), element("span.where", {}, one.in), one.required ? element("span.required", {}, "required") : null),
      element("td", {}, element("p", {}, inline(one.description || about(one.schema))), element("p.small", {}, facts(one.schema))),
    ),
  );
  return [
    element("h4", { id: `${id}-parameters` }, "Parameters"),
    element("table", { "aria-labelledby": `${id}-parameters` }, element("tbody", {}, rows)),
  ];
}

function bodiesView(requestBody) {
  if (!requestBody) return null;
  return [
    element("h4", {}, "Body"),
    Object.entries(requestBody.content).map(([media, { schema }]) => [
      element("p.media", {}, element("code", {}, media), media.includes("ndjson") ? " one JSON text per line" : null),
      media.includes("ndjson") ? null : schemaView(schema),
    ]),
  ];
}

function repliesView(responses) {
  return [
    element("h4", {}, "Replies"),
    responses.filter(([, response]) => !isRefusal(response)).map(([status, response]) => {
      const bodies = Object.entries(response.content || {}).filter(([media]) => !media.startsWith("application/problem"));
      const headers = Object.entries(response.headers || {}).filter(([name]) => name !== "X-Request-Id");
      // A description may go on with the codes of refusals: those have their own table.
      const [first] = response.description.split("\n\n- ");
      return element(
        "details.reply", { open: status === usual(responses) },
        element("summary", {}, element(`span.status.s${status[0]}`, {}, status), " ", inline(first)),
        headers.length
          ? element("dl", {}, headers.map(([name, header]) => [element("dt", {}, element("code", {}, name)), element("dd", {}, inline(resolve(header).description))]))
          : null,
        bodies.map(([media, { schema }]) => [element("p.media", {}, element("code", {}, media)), media === "application/json" ? schemaView(schema) : null]),
        bodies.length ? null : element("p", {}, "No body."),
      );
    }),
  ];
}

function refusalsView(responses, id) {
  const rows = responses.flatMap(([status, response]) => {
    const titles = new Map([...response.description.matchAll(/- `(\w+)`: (.*)\./g)].map((found) => [found[1], found[2]]));
    return [...titles].map(([name, title], at) =>
      element(
        "tr", {},
        at === 0 ? element("th", { scope: "rowgroup", rowspan: String(titles.size) }, element(`span.status.s${status[0]}`, {}, status)) : null,
        element("td", {}, element("code", {}, name)), element("td", {}, inline(title)),
      ),
    );
  });
  return element(
    "details.refusals", {},
    element("summary", { id: `${id}-refusals` }, "Refusals, as ", element("code", {}, "application/problem+json")),
    element("table", { "aria-labelledby": `${id}-refusals` }, element("tbody", {}, rows)),
  );
}

function repliesPanel(responses) {
  const examples = responses.flatMap(([status, response]) => examplesOf(response).map((one) => ({ ...one, status })));
  if (!examples.length) return null;
  const shown = element("code");
  const choice = element("select", { "aria-label": "Which reply" }, examples.map((one, at) => element("option", { value: String(at) }, `${one.status} ${one.name}`)));
  choice.value = String(Math.max(0, examples.findIndex((one) => one.status === usual(responses))));
  const show = () => (shown.textContent = examples[Number(choice.value)].text);
  choice.addEventListener("change", show);
  show();
  return element(
    "div.card", {},
    element("div.bar", {}, element("h4", {}, "Reply"), choice, copyButton(() => shown.textContent, "the reply")),
    element("pre", { tabindex: "0", role: "region", "aria-label": "Example of the reply" }, shown),
  );
}

/** The status to show first. */
function usual(responses) {
  return responses.some(([status]) => status === "201") ? "201" : responses[0][0];
}

function isRefusal(response) {
  const media = Object.keys(response.content || {});
  return media.length > 0 && media.every((one) => one.startsWith("application/problem"));
}

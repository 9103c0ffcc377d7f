// Unfolds JSON Schemas: what a value may be in one line, and the members of objects below it.

import { element, inline } from "./elements.js";

let root = {};

/** Say which document `$ref`s point into. */
export function setRoot(description) {
  root = description;
}

/** Follow a `$ref`, if there is one. What stands beside it wins. */
export function resolve(value) {
  if (!value || !value.$ref) return value;
  const { $ref, ...beside } = value;
  const found = $ref.slice(2).split("/").reduce((at, word) => at[word.replaceAll("~1", "/").replaceAll("~0", "~")], root);
  return { ...found, ...beside };
}

/** The members of a schema as nested lists, or its one line where it has none. */
export function schemaView(schema, above = []) {
  const { one, choices } = peel(schema);
  if (choices.length > 1 && choices.some((choice) => inner(choice))) {
    const seen = new Set();
    const once = (choice) => {
      const found = inner(choice);
      if (!found || (found.name && seen.has(found.name))) return null;
      seen.add(found.name);
      return below(choice, above);
    };
    return choices.map((choice, at) => element("div.choice", {}, element("p.either", {}, at ? "or " : "", label(choice)), once(choice)));
  }
  return inner(one) ? below(one, above) : element("p", {}, facts(schema));
}

/** One line: type, then bounds. */
export function facts(schema) {
  return [element("span.type", {}, label(schema)), ...bounds(schema).map((bound) => element("span.bound", {}, bound))];
}

/** The description of a schema, wherever it stands. */
export function about(schema) {
  if (schema.description) return schema.description;
  const { one } = peel(schema);
  return one.$ref ? "" : one.description || "";
}

function below(schema, above) {
  const { name, target } = inner(schema);
  if (name && above.includes(name)) return element("p.again", {}, `${name}, as above`);
  const path = name ? [...above, name] : above;
  const required = new Set(target.required || []);
  const rows = Object.entries(target.properties || {}).map(([member, value]) => row(member, value, required.has(member), path));
  return element("ul.members", {}, rows);
}

function row(member, schema, required, path) {
  const text = about(schema);
  const nested = peel(schema).choices.filter((choice) => inner(choice));
  return element(
    "li", {},
    element("p.member", {}, element("code.key", {}, member), " ", facts(schema), required ? element("span.required", {}, "required") : null),
    text ? element("p.about", {}, inline(text)) : null,
    nested.map((choice) =>
      element("details", { open: path.length < 1 }, element("summary", {}, `Members of ${inner(choice).name || member}`), below(choice, path)),
    ),
  );
}

/** The object whose members are worth a list: the schema itself, or the items of an array. */
function inner(schema) {
  const name = schema.$ref && schema.$ref.split("/").pop();
  const target = resolve(schema);
  if (target.properties) return { name, target };
  return target.items ? inner(target.items) : null;
}

function peel(schema) {
  const choices = (schema.anyOf || schema.oneOf || [schema]).filter((choice) => choice.type !== "null");
  return { one: choices[0], choices, nullable: (schema.anyOf || []).length > choices.length };
}

function label(schema) {
  const { choices, nullable } = peel(schema);
  const names = choices.map((choice) => {
    if (choice.$ref) return choice.$ref.split("/").pop();
    if (choice.enum) return choice.enum.map((value) => JSON.stringify(value)).join(" · ");
    if ("const" in choice) return JSON.stringify(choice.const);
    if (choice.type === "array") return `array of ${choice.items ? label(choice.items) : "anything"}`;
    if (choice.type === "object" && choice.additionalProperties) return `object of ${label(choice.additionalProperties)}`;
    return choice.type || "any JSON value";
  });
  if (nullable) names.push("null");
  return names.join(" or ");
}

const WORDS = {
  minimum: (n) => `≥ ${n}`,
  exclusiveMinimum: (n) => `> ${n}`,
  maximum: (n) => `≤ ${n.toLocaleString("en")}`,
  exclusiveMaximum: (n) => `< ${n.toLocaleString("en")}`,
  minLength: (n) => (n === 1 ? "not empty" : `at least ${n} characters`),
  maxLength: (n) => `at most ${n.toLocaleString("en")} characters`,
  minItems: (n) => (n === 1 ? "not empty" : `at least ${n} items`),
  maxItems: (n) => `at most ${n.toLocaleString("en")} items`,
  maxProperties: (n) => `at most ${n} members`,
  format: (name) => name,
  pattern: (text) => text,
};

function bounds(schema) {
  const { one } = peel(schema);
  return Object.keys(WORDS).filter((word) => word in one).map((word) => WORDS[word](one[word]));
}

// The API's documentation, drawn from /openapi.json: nothing is loaded from anywhere else.

import { h, put } from "../parts/dom.js";

const doc = document.getElementById("doc");

fetch("/openapi.json").then((answer) => answer.json()).then(draw, () => put(doc, "The server does not answer."));

function draw(spec) {
  const groups = new Map();
  for (const [path, verbs] of Object.entries(spec.paths)) {
    for (const [verb, operation] of Object.entries(verbs)) {
      const tag = operation.tags?.[0] || "other";
      groups.set(tag, [...(groups.get(tag) || []), { path, verb, operation }]);
    }
  }
  put(doc, h("h1", null, `${spec.info.title} ${spec.info.version}`), h("p.dim", null, `${spec.info.summary} Every failure has one shape: code, message, details. The machine-readable form is `, h("a", { href: "/openapi.json" }, "/openapi.json"), "; the curator is ", h("a", { href: "/" }, "here"), "."),
    [...groups].map(([tag, list]) => [h("h2", null, tag), list.map((one) => operationCard(spec, one))]));
}

function operationCard(spec, { path, verb, operation }) {
  const text = operation.description || operation.summary;
  const body = h("div.body");
  const card = h("details.op", null, h("summary", null, h(`span.verb.${verb}`, null, verb.toUpperCase()), h("span.path", null, path), h("span.what", null, text.split("\n")[0])), body);
  card.addEventListener("toggle", () => card.open && !body.firstChild && put(body, details(spec, { path, verb, operation, text })));
  return card;
}

function details(spec, { path, verb, operation, text }) {
  const parameters = operation.parameters || [];
  const request = operation.requestBody && schemaOf(operation.requestBody.content);
  const answers = Object.entries(operation.responses);
  return [
    h("p", null, text),
    parameters.length > 0 && [h("h4", null, "Parameters"), h("table", null, parameters.map((one) => h("tr", null, h("td.mono", null, one.name, one.required && h("span.faint", null, " required")), h("td.faint", null, `${one.in}, ${typeName(spec, one.schema)}`), h("td.dim", null, one.description || one.schema?.description || ""))))],
    request && [h("h4", null, "Body"), h("pre", null, example(spec, request))],
    h("h4", null, "Answers"),
    answers.map(([status, answer]) => h("details", null, h("summary.dim", null, `${status} ${answer.description || ""}`), schemaOf(answer.content) && h("pre", null, example(spec, schemaOf(answer.content))))),
    h("h4", null, "Try"),
    h("pre", null, curl(spec, path, verb, request, operation)),
  ];
}

const schemaOf = (content) => Object.values(content || {})[0]?.schema;

function curl(spec, path, verb, request, operation) {
  const parts = ["curl", verb === "get" ? "" : `-X ${verb.toUpperCase()}`, `'${location.origin}${path}'`].filter(Boolean);
  if (operation.requestBody?.content["multipart/form-data"]) parts.push(...formFields(spec, operation));
  else if (request) parts.push("-H 'content-type: application/json'", `-d '${example(spec, request).replace(/\s*\n\s*/g, " ")}'`);
  return parts.join(" ");
}

/** What a form needs, a file as `-F name=@FILE`. */
function formFields(spec, operation) {
  const { properties, required = [] } = resolve(spec, operation.requestBody.content["multipart/form-data"].schema);
  return required.map((name) => `-F ${name}=${isFile(properties[name]) ? "@FILE" : name.toUpperCase()}`);
}

const isFile = (schema) => schema.format === "binary" || Boolean(schema.contentMediaType);

function resolve(spec, schema) {
  return schema?.$ref ? spec.components.schemas[schema.$ref.split("/").pop()] : schema || {};
}

function typeName(spec, schema) {
  if (schema?.anyOf) return schema.anyOf.map((one) => typeName(spec, one)).filter((one) => one !== "null").join(" or ");
  const found = resolve(spec, schema);
  return found.enum ? found.enum.join(" | ") : found.type === "array" ? `list of ${typeName(spec, found.items)}` : found.title && found.properties ? found.title : found.type || "any";
}

const example = (spec, schema) => JSON.stringify(sample(spec, schema, 0), null, 2) ?? "";

function sample(spec, schema, depth) {
  const found = resolve(spec, schema);
  if (found.examples?.length) return found.examples[0];
  if (found.default !== undefined && found.default !== null) return found.default;
  if (found.anyOf) return sample(spec, found.anyOf[0], depth);
  if (found.enum) return found.enum[0];
  if (depth > 5) return "…";
  if (found.properties) return Object.fromEntries(Object.entries(found.properties).map(([key, value]) => [key, sample(spec, value, depth + 1)]));
  if (found.type === "array") return [sample(spec, found.items, depth + 1)];
  if (found.type === "object") return {};
  return { string: found.format === "date-time" ? "2026-03-01T12:00:00Z" : "…", integer: 0, number: 0.5, boolean: true }[found.type] ?? null;
}

const main = document.getElementById("operations");
const document_ = await (await fetch("openapi.json")).json();

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

// Text from the server is only ever set as text, never as markup.
const resolve = (schema) =>
  schema?.$ref ? schema.$ref.split("/").slice(1).reduce((found, step) => found[step], document_) : schema ?? {};

const example = (schema, depth = 0) => {
  const found = resolve(schema);
  if (found.examples?.length) return found.examples[0];
  if ("default" in found) return found.default;
  if ("const" in found) return found.const;
  if (found.enum) return found.enum[0];
  const chosen = found.anyOf ?? found.oneOf;
  if (chosen) return example(chosen[0], depth + 1);
  if (found.type === "object" || found.properties) {
    if (depth > 6) return {};
    const needed = new Set(found.required ?? []);
    return Object.fromEntries(Object.entries(found.properties ?? {})
      .filter(([name, field]) => needed.has(name) || resolve(field).examples)
      .map(([name, field]) => [name, example(field, depth + 1)]));
  }
  if (found.type === "array") return depth > 6 ? [] : [example(found.items, depth + 1)];
  if (found.type === "integer" || found.type === "number") return found.minimum ?? 0;
  if (found.type === "boolean") return false;
  return found.type === "string" ? "Hello" : null;
};

const send = async (method, path, operation, form, output) => {
  const values = new FormData(form);
  const query = new URLSearchParams();
  let target = path;
  for (const parameter of operation.parameters ?? []) {
    const value = values.get(parameter.name);
    if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (value) query.set(parameter.name, value);
  }
  const headers = {};
  const key = document.getElementById("key").value.trim();
  if (key) headers.authorization = `Bearer ${key}`;
  if (operation.requestBody) headers["content-type"] = "application/json";
  const began = performance.now();
  output.hidden = false;
  output.textContent = "…";
  try {
    const response = await fetch(target.slice(1) + (query.size ? `?${query}` : ""), {
      method: method.toUpperCase(), headers, body: operation.requestBody ? values.get("body") : undefined,
    });
    output.textContent = `${response.status} ${response.statusText}\n\n`;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) output.append(part.value);
    output.append(`\n\n${Math.round(performance.now() - began)} ms`);
  } catch (problem) {
    output.textContent = String(problem);
  }
};

const show = (method, path, operation) => {
  const output = make("pre", { hidden: true });
  const form = make("form");
  for (const parameter of operation.parameters ?? [])
    form.append(make("label", {}, parameter.name,
      make("input", { name: parameter.name, required: parameter.required })));
  const body = operation.requestBody?.content["application/json"];
  if (body) form.append(make("label", {}, "body", make("textarea", {
    name: "body", spellcheck: false, value: JSON.stringify(example(body.schema), null, 2),
  })));
  form.append(make("button", { textContent: "Send" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(method, path, operation, form, output);
  });
  const scope = operation.security?.[0]?.key?.[0];
  return make("details", {},
    make("summary", {},
      make("span", { className: "method", textContent: method.toUpperCase() }),
      make("code", { textContent: path }), operation.summary ?? "",
      make("span", { className: "scope", textContent: scope ? `key with ${scope}` : "no key" })),
    make("p", { textContent: operation.description ?? "" }), form, output);
};

const byTag = new Map();
for (const [path, methods] of Object.entries(document_.paths))
  for (const [method, operation] of Object.entries(methods)) {
    const tag = operation.tags?.[0] ?? "other";
    byTag.set(tag, [...(byTag.get(tag) ?? []), show(method, path, operation)]);
  }
main.replaceChildren(...[...byTag].flatMap(([tag, shown]) => [make("h2", { textContent: tag }), ...shown]));
for (const [path, socket] of Object.entries(document_["x-websockets"] ?? {}))
  main.append(make("h2", { textContent: "websocket" }), make("p", {}, make("code", { textContent: path }), " ", socket.summary));

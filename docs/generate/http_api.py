"""The server's endpoints, from the OpenAPI document that the server answers with."""

from __future__ import annotations

from typing import Any

from json_schema import definitions, markdown_table, table, words

from grpo_host.serving.features import all_endpoints, all_websocket_routes
from grpo_host.serving.http.openapi import ERRORS, build_openapi


def endpoints() -> str:
    """A section for each tag with its endpoints, the WebSockets, and the bodies that they name."""
    document = build_openapi(all_endpoints(), all_websocket_routes())
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(operation["tags"][0], []).append(_endpoint(method.upper(), path, operation))
    parts = []
    for tag, sections in by_tag.items():
        parts += [f"## {tag.capitalize().replace('Openai', 'OpenAI')} {{#{tag}}}\n", *sections]
    parts.append("## WebSockets {#websockets}\n")
    for path, socket in document["x-websockets"].items():
        parts.append(
            f"### `{path}` {{#websocket{path}}}\n\n{socket['summary']}. Scope: `{socket['scope']}`.\n"
        )
    parts.append("## Bodies {#bodies}\n")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f"### {name} {{#{name}}}\n\n{schema.get('description', '')}\n")
        parts.append(table(schema, _link) if "properties" in schema else f"{words(schema, _link)}\n")
    return "\n".join(parts)


def _endpoint(method: str, path: str, operation: dict[str, Any]) -> str:
    scopes = [scope for needed in operation["security"] for scope in needed["key"]]
    parts = [f"### `{method} {path}` {{#{operation['operationId']}}}\n", f"{operation['summary']}."]
    parts += [operation["description"]] if "description" in operation else []
    parts.append(f"Scope: `{scopes[0]}`.\n" if scopes else "Needs no key.\n")
    if "parameters" in operation:
        rows = [_parameter(parameter) for parameter in operation["parameters"]]
        parts.append("\n" + markdown_table(("parameter", "in", "value", "meaning"), rows))
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        parts.append(f"\nBody: {words(schema, _link)}\n")
    own = {
        code: answer
        for code, answer in operation["responses"].items()
        if ERRORS.get(code) != answer["description"]
    }
    parts.append("\n" + markdown_table(("status", "when", "body"), [_answer(*item) for item in own.items()]))
    return "\n".join(parts)


def _parameter(parameter: dict[str, Any]) -> tuple[str, ...]:
    schema = parameter["schema"]
    name = f"`{parameter['name']}`" + (" **required**" if parameter["required"] else "")
    return name, parameter["in"], words(schema, _link), schema.get("description", "")


def _answer(code: str, answer: dict[str, Any]) -> tuple[str, ...]:
    kinds = []
    for kind, content in answer.get("content", {}).items():
        names = definitions(content["schema"])
        held = ", ".join(map(_link, names))
        kinds.append(f"{held} (`{kind}`)" if kind != "application/json" and held else held or f"`{kind}`")
    return code, answer["description"], " or ".join(kinds)


def _link(name: str) -> str:
    return f"[{name}](#{name})"

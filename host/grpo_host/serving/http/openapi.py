"""The OpenAPI document, from the same endpoints and models that the server runs on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from grpo_host.serving.http.endpoint import PUBLIC, Endpoint, SocketEndpoint
from grpo_host.serving.http.errors import ErrorResponse, OpenAIErrorResponse

DIALECT = "3.1.0"
TAGS = {
    "chat": "Conversations with the whole agent, which are kept, and what people think of its answers",
    "openai": "OpenAI's API, for any of its clients",
    "training": "Jobs that train the agent, and how far they are",
    "observability": "What the server does",
    "health": "For orchestrators; needs no key",
    "administration": "For the scope admin",
    "documentation": "This page",
}
"""In the order in which somebody who comes new needs them."""
_REFERENCE = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")

_Schemas = dict[Any, dict[str, Any]]
"""(model, mode) → its schema."""


def build_openapi(
    endpoints: Sequence[Endpoint], sockets: Sequence[SocketEndpoint] = (), *, model: str | None = None
) -> dict[str, Any]:
    """The document, ready for JSON. Its examples name ``model``, so that the server answers them."""
    endpoints = [endpoint for endpoint in endpoints if endpoint.documented]
    models = set(_models(endpoints))
    models |= {(ErrorResponse, _OUT), (OpenAIErrorResponse, _OUT)}
    ordered = sorted(models, key=lambda model: (model[0].__name__, model[1]))
    schemas, definitions = models_json_schema(ordered, ref_template=_REFERENCE)
    if model is not None:
        for schema in definitions.get("$defs", {}).values():
            for example in schema.get("examples", ()):
                if "model" in example:
                    example["model"] = model
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        path = _PARAMETER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": DIALECT,
        "info": {
            "title": "grpo-host",
            "version": "1",
            "description": "An agent, the training of its successors, and the OpenAI API in front of both.",
        },
        "security": [{"key": []}],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of `grpo-host keys create`. A server without any key answers its "
                    "own machine only, without one.",
                }
            },
        },
        "x-websockets": {
            socket.path: {"summary": socket.summary, "scope": str(socket.scope)} for socket in sockets
        },
    }


_IN: JsonSchemaMode = "validation"
_OUT: JsonSchemaMode = "serialization"


def _models(endpoints: Iterable[Endpoint]) -> Iterable[tuple[type[BaseModel], JsonSchemaMode]]:
    for endpoint in endpoints:
        yield from ((model, _IN) for model in (endpoint.request, endpoint.query) if model)
        yield from ((model, _OUT) for model in (endpoint.response, endpoint.stream) if model)


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": "_".join([endpoint.method.lower(), *re.findall(r"\w+", endpoint.path)]),
        "summary": endpoint.summary,
        "tags": list(endpoint.tags),
        "responses": _responses(endpoint, schemas),
    }
    description = getattr(endpoint.handler, "__doc__", None)
    if description:
        operation["description"] = " ".join(description.split())
    parameters = [*_path_parameters(endpoint), *_query_parameters(endpoint)]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.request is not None:
        content = {"application/json": {"schema": schemas[endpoint.request, _IN]}}
        operation["requestBody"] = {"required": True, "content": content}
    public = endpoint.scope is None or (endpoint.method, endpoint.path) in PUBLIC
    operation["security"] = [] if public else [{"key": [str(endpoint.scope)]}]
    return operation


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(endpoint.path)
    ]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if endpoint.query is None:
        return []
    schema = endpoint.query.model_json_schema(ref_template=_REFERENCE)
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema.get("properties", {}).items()
    ]


def _responses(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if endpoint.response is not None:
        content["application/json"] = {"schema": schemas[endpoint.response, _OUT]}
    elif endpoint.stream is None and endpoint.status != 204:
        content[endpoint.content_type] = {"schema": {}}
    if endpoint.stream is not None:
        held = schemas[endpoint.stream, _OUT]
        data: dict[str, Any] = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": held,
        }
        if endpoint.path.startswith("/v1/"):
            data = {"anyOf": [{"const": "[DONE]"}, data]}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        content["text/event-stream"] = {"schema": event}  # of each event, as in OpenAPI 3.2's itemSchema
    responses: dict[str, Any] = {str(endpoint.status): {"description": "Done"}}
    if content:
        responses[str(endpoint.status)]["content"] = content
    for status, when in endpoint.statuses.items():
        kind = schemas[endpoint.response, _OUT] if endpoint.scope is None and endpoint.response else None
        responses[str(status)] = _failure(endpoint, schemas, when, kind)
    if endpoint.scope is not None:
        for code, when in ERRORS.items():
            responses.setdefault(code, _failure(endpoint, schemas, when))
            if code in ("429", "503"):
                retry = {"schema": {"type": "integer"}, "description": "Seconds"}
                responses[code]["headers"] = {"Retry-After": retry}
    return responses


ERRORS = {
    "401": "No valid key",
    "403": "The key does not have the scope",
    "429": "Too many requests: of this key, or of all",
    "503": "Shutting down, or the model does not answer",
    "4XX": "The request cannot be answered as it is",
}
"""What every endpoint that needs a key may answer."""


def _failure(endpoint: Endpoint, schemas: _Schemas, when: str, schema: Any = None) -> dict[str, Any]:
    model = OpenAIErrorResponse if endpoint.path.startswith("/v1/") else ErrorResponse
    content = {"application/json": {"schema": schema or schemas[model, _OUT]}}
    return {"description": when, "content": content}

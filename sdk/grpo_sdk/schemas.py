"""Bring JSON schemas of tools' arguments, from any source, into the form that every reader expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SCHEMAS_BY_NAME = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_LISTS_OF_SCHEMAS = {"anyOf", "allOf", "oneOf", "prefixItems"}
_SCHEMAS = {
    "items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties",
    "unevaluatedProperties", "propertyNames", "not", "if", "then", "else",
}  # fmt: skip
_DATA = {"const", "default", "enum", "examples", "example"}
"""Keywords whose values are no schemas, and may be null."""


def object_schema(parameters: Any) -> dict[str, Any]:
    """``parameters`` as the schema of an object; nothing that it says is lost.

    Servers and clients in many languages write schemas: ``properties`` may be null or (PHP's empty
    array) a list, ``required`` null, a schema true or false. Model templates and renderers read them
    as dicts and lists, and fail on others. A well-formed schema comes back as it is. Raises
    ``ValueError`` if ``parameters`` is no schema.
    """
    if not isinstance(parameters, Mapping | bool) and parameters not in (None, []):
        raise ValueError(f"the parameters of a tool are a JSON schema, not {parameters!r:.80}")
    schema = _schema(parameters if parameters != [] else None)
    if "type" not in schema:
        schema["type"] = "object"
    if "properties" not in schema:
        schema["properties"] = {}
    return schema


def _schema(value: Any) -> dict[str, Any]:
    if value is None or value is True:
        return {}
    if value is False:
        return {"not": {}}
    if not isinstance(value, Mapping):  # no schema, but a reader may understand it
        return {"description": str(value)}
    schema: dict[str, Any] = {}
    for keyword, said in value.items():
        if keyword in _DATA:
            schema[keyword] = said
        elif said is None or (keyword == "required" and not isinstance(said, list)):
            continue
        elif keyword in _SCHEMAS_BY_NAME:
            schema[keyword] = _by_name(said)
        elif keyword in _LISTS_OF_SCHEMAS and isinstance(said, list):
            schema[keyword] = [_schema(item) for item in said]
        elif keyword in _SCHEMAS:
            schema[keyword] = _nested(said)
        else:
            schema[keyword] = said
    required = _required(value)
    if required or "required" in schema:
        schema["required"] = required
    return schema


def _by_name(value: Any) -> dict[str, Any]:
    return {str(name): _schema(item) for name, item in value.items()} if isinstance(value, Mapping) else {}


def _nested(value: Any) -> Any:
    """A schema where readers expect true and false as well, or (``items``) a list of schemas."""
    if isinstance(value, bool):
        return value
    return [_schema(item) for item in value] if isinstance(value, list) else _schema(value)


def _required(schema: Mapping[str, Any]) -> list[str]:
    """The names of required properties, including those marked on the property itself (JSON Schema 3)."""
    listed, properties = schema.get("required"), schema.get("properties")
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    for name, item in properties.items() if isinstance(properties, Mapping) else ():
        if isinstance(item, Mapping) and item.get("required") is True and name not in names:
            names.append(str(name))
    return names


def inlinable(schema: Mapping[str, Any]) -> bool:
    """Whether each ``$ref`` of ``schema`` can be replaced by what it names: none is unknown or circular."""
    named = {
        f"#/{place}/{name}": item
        for place in ("$defs", "definitions")
        for name, item in schema.get(place, {}).items()
    }

    def ends(value: Any, within: frozenset[str]) -> bool:
        if isinstance(value, list):
            return all(ends(item, within) for item in value)
        if not isinstance(value, Mapping):
            return True
        reference = value.get("$ref")
        if isinstance(reference, str):
            if reference in within or reference not in named:
                return False
            return ends(named[reference], within | {reference})
        return all(ends(item, within) for item in value.values())

    return ends(
        {key: item for key, item in schema.items() if key not in ("$defs", "definitions")}, frozenset()
    )

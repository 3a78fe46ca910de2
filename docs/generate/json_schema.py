"""A JSON schema as Markdown: a table of an object's keys, and what a value may be in words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Schema = Mapping[str, Any]
Link = Callable[[str], str]
"""Name of a definition → Markdown that leads to it."""

_BOUNDS = {
    "minimum": " ≥ {}",
    "exclusiveMinimum": " > {}",
    "maximum": " ≤ {}",
    "exclusiveMaximum": " < {}",
    "minLength": " of {} or more characters",
    "maxLength": " of at most {} characters",
    "minItems": " of {} or more items",
    "maxItems": " of at most {} items",
    "pattern": " that matches `{}`",
}


def table(schema: Schema, link: Link, *, of: str = "key") -> str:
    """A row for each property of the object ``schema``."""
    required = schema.get("required", ())
    rows = [
        (f"`{name}`", words(field, link), _default(field, name in required), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]
    return markdown_table((of, "value", "default", "meaning"), rows)


def markdown_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table, without the columns that are empty in every row."""
    kept = [number for number in range(len(head)) if any(row[number] for row in rows)]
    lines = [[head[number] for number in kept], ["---"] * len(kept)]
    lines += [[_cell(row[number]) for number in kept] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    parts = " ".join(text.split()).split("`")  # within code, a bar is no end of a cell
    parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
    return "`".join(parts)


def _default(field: Schema, required: bool) -> str:
    if required:
        return "**required**"
    if "default" not in field or (isinstance(field["default"], dict) and definitions(field)):
        return ""  # a section's defaults are those of its keys
    text = json.dumps(field["default"], ensure_ascii=False)
    return f"`{text}`" if len(text) <= 200 else ""


def words(schema: Any, link: Link) -> str:
    """What a value may be, e.g. "integer ≥ 1 or null"."""
    if not isinstance(schema, Mapping) or schema == {}:
        return "any"
    if "$ref" in schema:
        return link(_name(schema["$ref"]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    for combined in ("anyOf", "oneOf", "allOf"):
        if combined in schema:
            return " or ".join(dict.fromkeys(words(item, link) for item in schema[combined]))
    kinds = schema.get("type", "any")
    text = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if kinds == "array":
        text = f"list of {words(schema.get('items'), link)}"
    elif kinds == "object":
        values = schema.get("additionalProperties")
        text = f"mapping to {words(values, link)}" if isinstance(values, Mapping) else "mapping"
    elif kinds == "string":
        text = schema.get("format", "text")
    bounds = [form.format(schema[key]) for key, form in _BOUNDS.items() if key in schema]
    return re.sub(r" of 1 or more (characters|items)", " (not empty)", text + ",".join(bounds))


def definitions(schema: Any) -> list[str]:
    """The names of the definitions that ``schema`` refers to, in order, without those of ``$defs``."""
    if isinstance(schema, Mapping):
        found = [_name(schema["$ref"])] if isinstance(schema.get("$ref"), str) else []
        inner = [definitions(value) for key, value in schema.items() if key not in ("$defs", "default")]
    elif isinstance(schema, list):
        found, inner = [], [definitions(item) for item in schema]
    else:
        return []
    return list(dict.fromkeys([*found, *(name for names in inner for name in names)]))


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]

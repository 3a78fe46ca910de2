"""Tools described in a system prompt, for models whose chat template knows none: whole, and short.

::

    Tools:
    page(level: "low" | "urgent", team?: string = "ops"): Call an engineer.
      level: How soon somebody has to look.
      team (maxLength 9): Who is called.

The first line of a tool says what its arguments are. What its schema says besides stands below, under
the name of the argument, and only if there is such. A schema that this cannot say (arguments in
arguments, conditions between them) stands there as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from grpo_sdk.messages import ToolSchema
from grpo_sdk.schemas import object_schema

_SIMPLE = {"string", "integer", "number", "boolean", "null"}
_LITERALS: dict[str, type] = {"string": str, "integer": int, "boolean": bool}
_SAID_BY_SIGNATURE = {"type", "properties", "required"}
_SAYS_NOTHING = {"$schema", "title"}
"""Of a tool's whole schema: which standard it follows, and its name once more."""
_NAME = re.compile(r"[\w$.-]+")


def describe_tools(tools: Sequence[ToolSchema]) -> str:
    """What a system prompt says of ``tools``."""
    lines = [_described(tool["function"]) for tool in tools]
    form = '<tool_call>{"name": "...", "arguments": {...}}</tool_call>'
    return "\n".join(["Tools:", *lines, f"To use a tool, reply only with: {form}"])


def _described(function: Mapping[str, Any]) -> str:
    parameters = object_schema(function.get("parameters"))
    whole = json.dumps({**function, "parameters": parameters}, ensure_ascii=False, default=str)
    if not _is_plain(parameters):
        return whole
    required = parameters.get("required", ())
    listed, besides = [], []
    for name, field in parameters["properties"].items():
        argument = _argument(name, field)
        if argument is None:
            return whole
        listed.append(f"{name}{'' if name in required else '?'}: {argument.says}")
        besides.append(argument.besides)
    signature = f"{function['name']}({', '.join(listed)}): {function.get('description') or ''}"
    return "\n".join([signature.rstrip(": "), *filter(None, besides)])


def _is_plain(parameters: Mapping[str, Any]) -> bool:
    """Whether ``parameters`` are an object of its properties, with no condition on the whole."""
    others = parameters.keys() - _SAID_BY_SIGNATURE - _SAYS_NOTHING
    if parameters.get("additionalProperties") is False:
        others -= {"additionalProperties"}
    known = parameters["properties"].keys() >= set(parameters.get("required", ()))
    return not others and parameters["type"] == "object" and known


class _Argument(NamedTuple):
    says: str
    """Its type or its allowed values, and its default."""
    besides: str
    """A line with all else, or nothing."""


def _argument(name: str, field: Mapping[str, Any]) -> _Argument | None:
    """None if a signature cannot say what ``field`` takes."""
    typed = _type(field)
    if typed is None or not _NAME.fullmatch(name):
        return None
    says, said = typed
    if "default" in field:
        says += f" = {_json(field['default'])}"
    more = {keyword: value for keyword, value in field.items() if keyword not in said | {"default"}}
    if _alike(more.get("title"), name):
        del more["title"]
    description = more.pop("description", "")
    facts = ", ".join(f"{keyword} {_json(value)}" for keyword, value in more.items())
    head = f"  {name} ({facts})" if facts else f"  {name}"
    if description:
        text = description if isinstance(description, str) else _json(description)
        return _Argument(says, f"{head}: {text}".replace("\n", "\n    "))
    return _Argument(says, head if facts else "")


def _type(field: Mapping[str, Any]) -> tuple[str, set[str]] | None:
    """What ``field`` takes, and the keywords that say so; None if it is not simple."""
    kind, values, options = field.get("type"), field.get("enum"), field.get("anyOf")
    if isinstance(values, list) and values and all(_is(value, kind) for value in values):
        return " | ".join(map(_json, values)), {"type", "enum"}
    kinds: list[Any] = kind if isinstance(kind, list) else [kind]
    said = "type"
    if kind is None and isinstance(options, list):
        kinds, said = [item["type"] if item.keys() == {"type"} else None for item in options], "anyOf"
    simple = kinds != ["null"] and all(isinstance(item, str) and item in _SIMPLE for item in kinds)
    return (" | ".join(kinds), {said}) if kinds and simple else None


def _is(value: Any, kind: Any) -> bool:
    """Whether a literal ``value`` says all that the type ``kind`` (None: any) says."""
    if kind is None:
        return isinstance(value, str | int | float)
    return isinstance(kind, str) and type(value) is _LITERALS.get(kind)


def _alike(title: Any, name: str) -> bool:
    """Whether ``title`` is ``name`` once more, as pydantic and others make it."""
    return isinstance(title, str) and _plain(title) == _plain(name)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)

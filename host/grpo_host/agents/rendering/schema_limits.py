"""What of a JSON schema xgrammar 0.2 does not enforce, so that an answer could break it unnoticed.

Strings of a bounded length it lets hold control characters, which JSON forbids: they become patterns here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from grpo_sdk.errors import CapabilityError

_NEVER = {
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "patternProperties",
    "propertyNames", "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems",
    "$dynamicRef",
}  # fmt: skip
_CHOICES = ("anyOf", "oneOf", "allOf")
_NAMED = ("properties", "$defs", "definitions")
_LISTED = (*_CHOICES, "prefixItems")
_SINGLE = ("items", "additionalProperties", "unevaluatedProperties")
_SAYS_NOTHING = {
    "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
    "discriminator", "$defs", "definitions", "$schema", "$id", "$comment", "nullable",
}  # fmt: skip
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_LENGTHS = {"minLength", "maxLength"}
_LOOKAROUND = re.compile(r"\(\?(?:[=!]|<[=!])")


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise ``CapabilityError`` with the place of what in ``schema`` cannot be enforced."""
    found = next(_unenforced(schema, ""), None)
    if found is not None:
        raise CapabilityError(
            f"json_schema: {found} cannot be enforced while an answer is sampled. Leave it out and check the "
            "answer, or say it otherwise"
        )


def _unenforced(schema: Any, at: str) -> Iterator[str]:
    if schema is False:
        yield f"{at or 'the schema'}: false, which nothing fits,"
    if not isinstance(schema, Mapping):
        return
    where = f"{at}." if at else ""
    yield from (f"{where}{said}" for said in _here(schema))
    for keyword in _NAMED:
        for name, part in (schema.get(keyword) or {}).items():
            yield from _unenforced(part, f"{where}{keyword}.{name}")
    for keyword in _LISTED:
        for index, part in enumerate(schema.get(keyword) or ()):
            yield from _unenforced(part, f"{where}{keyword}[{index}]")
    for keyword in _SINGLE:
        if isinstance(part := schema.get(keyword), Mapping):
            yield from _unenforced(part, f"{where}{keyword}")


def _here(schema: Mapping[str, Any]) -> Iterator[str]:
    """What is not enforced of ``schema`` itself."""
    yield from sorted(keyword for keyword in _NEVER & schema.keys() if schema[keyword] is not False)
    if len(schema.get("allOf", ())) > 1:
        yield "allOf of more than one schema"
    chosen = [keyword for keyword in (*_CHOICES, "$ref") if keyword in schema]
    besides = sorted(schema.keys() - _SAYS_NOTHING - set(chosen[:1]) - _typed(schema))
    if chosen and besides:
        yield f"{besides[0]} beside {chosen[0]}"
    reference = schema.get("$ref", "#")
    if not (isinstance(reference, str) and reference.startswith("#")):
        yield f"$ref to {json.dumps(reference)}"
    if "multipleOf" in schema and (schema.get("type") != "integer" or _BOUNDS & schema.keys()):
        yield "multipleOf, but of an integer without bounds,"
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and _LOOKAROUND.search(pattern):
        yield "a pattern that looks around"
    if _LENGTHS & schema.keys() and "type" not in schema:
        yield "minLength or maxLength without a type"
    if {"pattern", "format"} & schema.keys() and _LENGTHS & schema.keys():
        yield "minLength or maxLength beside pattern or format"
    unknown = [name for name in schema.get("required", ()) if name not in schema.get("properties", ())]
    if unknown:
        yield f"required: {json.dumps(unknown[0])}, which is none of the properties,"


def _typed(schema: Mapping[str, Any]) -> set[str]:
    """A type beside a choice changes nothing if each of the choices says one."""
    choices = [choice for keyword in _CHOICES for choice in schema.get(keyword, ())]
    said = all(isinstance(choice, Mapping) and "type" in choice for choice in choices)
    return {"type"} if choices and said else set()


def enforceable(schema: Any) -> Any:
    """``schema`` with the length of each string said as a pattern."""
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for keyword in _NAMED:
        if isinstance(named := made.get(keyword), Mapping):
            made[keyword] = {name: enforceable(part) for name, part in named.items()}
    for keyword in _LISTED:
        if isinstance(listed := made.get(keyword), list):
            made[keyword] = [enforceable(part) for part in listed]
    for keyword in _SINGLE:
        if keyword in made:
            made[keyword] = enforceable(made[keyword])
    if _LENGTHS & made.keys() and not {"pattern", "format"} & made.keys():
        least, most = made.pop("minLength", 0), made.pop("maxLength", "")
        made["pattern"] = f"^.{{{least},{most}}}$"
    return made

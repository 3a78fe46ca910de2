"""Put pydantic's errors into words for the author of an agent.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from grpo_sdk.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

M = TypeVar("M", bound="BaseModel")

Location = tuple[str | int, ...]
"""Keys and indices from the top of agent.yaml to a value."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that is wrong at a location."""

    location: Location
    message: str


def say_location(location: Location) -> str:
    """``rewards[0].name``."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def settings_of(section: type[M], values: Mapping[str, Any]) -> M:
    """Make ``section`` from ``values``. Raises ``ConfigError`` with all that is wrong."""
    from pydantic import ValidationError

    try:
        return section.model_validate(dict(values))
    except ValidationError as problem:
        raise config_error(section, problem, values) from None


def config_error(
    section: type[BaseModel], problem: ValidationError, values: Mapping[str, Any]
) -> ConfigError:
    """pydantic's errors about the settings of ``section`` in words."""
    complaints = complaints_of(problem, values, section, what="setting")
    return ConfigError("; ".join(f"{say_location(c.location)}: {c.message}" for c in complaints))


def complaints_of(
    problem: ValidationError, values: Any, model: type[BaseModel], *, what: str = "key"
) -> list[Complaint]:
    """pydantic's errors of ``model``, at the places of ``values``; members of a union in one sentence."""
    merged: dict[Location, list[str]] = {}
    for error in problem.errors(include_url=False):
        location = error["loc"]
        if error["type"] not in ("missing", "extra_forbidden"):
            location = _existing(location, values)
        merged.setdefault(location, []).append(explain(error, keys_at(model, location[:-1]), what=what))
    return [
        Complaint(location, ", or ".join(dict.fromkeys(messages))) for location, messages in merged.items()
    ]


def keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that may stand at ``location`` within what ``model`` describes."""
    here: type[BaseModel] | None = model
    for step in location:
        if here is not None and not isinstance(step, int):
            fields = here.model_fields.items()
            here = section_in(next((f.annotation for name, f in fields if step in (name, f.alias)), None))
    return [] if here is None else [field.alias or name for name, field in here.model_fields.items()]


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone, optional or in a list."""
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := section_in(a))), None)


def _existing(location: Location, values: Any) -> Location:
    """``location`` without the steps that pydantic added for the members of a union."""
    for depth, step in enumerate(location):
        try:
            values = values[step]
        except (KeyError, IndexError, TypeError):
            # The name that stands for a whole section has no key of its own.
            return location[: depth + 1] if step == "name" else location[:depth]
    return location


def explain(error: ErrorDetails, known: Sequence[str], *, what: str = "key") -> str:
    """One pydantic error as a sentence; ``known`` are the keys that could stand in its place.

    Values are never repeated: they may be secrets.
    """
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        hint = did_you_mean(name, list(known))
        listed = f" The {what}s here are: {', '.join(known)}" if known else f" There are no {what}s"
        return f'unknown {what} "{name}".{hint or listed}'
    if kind == "missing":
        return f"this {what} is missing"
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    if kind == "literal_error":
        # pydantic lists values as Python writes them.
        words = {"True": "true", "False": "false", "None": "null"}
        context = {
            "expected": re.sub(r"(?<!')\b(True|False|None)\b", lambda m: words[m[0]], context["expected"])
        }
    sentence = _SENTENCES.get(kind)
    return sentence.format(**context) if sentence else error["msg"]


_SENTENCES: dict[str, str] = {
    "string_type": "give a text",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "finite_number": "give a finite number",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "list_type": "give a list",
    "tuple_type": "give a list",
    "dict_type": "give a mapping of keys to values",
    "model_type": "give a mapping of keys to values",
    "literal_error": "give one of: {expected}",
    "enum": "give one of: {expected}",
    "greater_than": "give more than {gt}",
    "greater_than_equal": "give at least {ge}",
    "less_than": "give less than {lt}",
    "less_than_equal": "give at most {le}",
    "too_short": "give at least {min_length}, not {actual_length}",
    "string_too_short": "give a text that is not empty",
    "string_too_long": "give at most {max_length} characters",
    "string_pattern_mismatch": "give a text that matches {pattern}",
    "too_long": "give at most {max_length}",
    "none_required": "leave it out, or null",
    "union_tag_invalid": "give one of: {expected_tags}",
    "union_tag_not_found": "this field is missing",
}

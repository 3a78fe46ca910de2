"""What the model is shown of a tool's result: messages hold text."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import json
import pathlib
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

_TEXT_PART = {"type", "text", "id", "index", "annotations", "extras"}
_PARTS = ("image", "image_url", "audio", "input_audio", "video", "file", "resource")
"""The ``type`` of parts of a message that are no text."""
_PLAIN = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID, pathlib.PurePath)


class ToolResultError(TypeError):
    """A tool returned what no model can be shown; the text says what, and what to return instead."""


def tool_text(value: Any) -> str:
    """``value`` as text: a text as it is, parts of a message as their text, all else as JSON.

    JSON may hold pydantic models, dataclasses, dates, decimals, paths, members of an ``Enum`` and what numpy
    makes. Raises ``ToolResultError`` for bytes, generators and other objects.
    """
    if isinstance(value, str):
        return value
    if _is_tool_message(value):
        value = value.content
        if isinstance(value, str):
            return value
    if _is_parts(value):
        return _text_of(value)
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except ToolResultError:
        raise
    except (TypeError, ValueError, RecursionError) as problem:  # a key that is no text, or a circle
        raise ToolResultError(
            f"the tool returned a {type(value).__name__} that is no JSON: {problem}"
        ) from None


def _is_tool_message(value: Any) -> bool:
    messages = sys.modules.get("langchain_core.messages")
    return messages is not None and isinstance(value, messages.ToolMessage)


def _is_parts(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(
            isinstance(part, Mapping) and (_is_text(part) or part.get("type") in _PARTS) for part in value
        )
    )


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str) and set(part) <= _TEXT_PART


def _text_of(parts: Sequence[Mapping[str, Any]]) -> str:
    if not any(_is_text(part) for part in parts):
        kinds = " and ".join(dict.fromkeys(str(part["type"]) for part in parts))
        raise ToolResultError(
            f"the tool returned content of the type {kinds}, and messages hold text only; return a text that "
            "says what is in it"
        )
    return "\n".join(part["text"] if _is_text(part) else f"[{part['type']} left out]" for part in parts)


def _plain(value: Any) -> Any:
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, _PLAIN):
        return str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise ToolResultError(f"the tool returned {_named(value)}")


def _named(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes, which are no text: decode them, or return JSON-able data that says what they are"
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        return "a generator, which yields nothing to the model: return a list or a text"
    if isinstance(value, set | frozenset):
        return "a set, which has no order and is no JSON: return a sorted list"
    if inspect.iscoroutine(value):
        value.close()
        return "a coroutine within its result: await it in the tool"
    return (
        f"an object of the class {type(value).__name__}, which is no JSON: return a text, a dict, a list or "
        "a pydantic model"
    )

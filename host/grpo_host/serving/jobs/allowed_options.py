"""Which options of a plugin a request may set: never one that could be a path, a command or a URL."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from grpo_host.openai_protocol.errors import ApiError

LARGEST = 2**31
"""A number is at most so large, whatever its sign."""
ENTRIES = 256
"""Of a list or mapping, with all below it; also characters of a fixed choice."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


def allowed_options(model: Any) -> set[str]:
    """The options that a request may set: those that hold no texts of the caller's own."""
    return {field.alias or name for name, field in model.model_fields.items() if _is_plain(field.annotation)}


def _is_plain(annotation: Any) -> bool:
    if annotation in (bool, int, float, NoneType):
        return True
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return True
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return True
    if origin is Annotated:
        return _is_plain(arguments[0])
    if origin in (dict, Mapping):
        return arguments[0] is str and _is_plain(arguments[1])  # numbers by name, such as weights
    if origin in (Union, UnionType, list, tuple, set, frozenset, Sequence):
        return bool(arguments) and all(_is_plain(a) for a in arguments if a is not Ellipsis)
    return False


def require_small(option: str, value: Any, field: str) -> None:
    """Raises ``ApiError`` for what would take much time or memory to read or to make something of."""
    pending, entries = [value], 0
    while pending:
        item = pending.pop()
        entries += 1
        too_large = isinstance(item, int | float) and abs(item) > LARGEST
        if too_large or entries > ENTRIES or (isinstance(item, str) and len(item) > ENTRIES):
            raise ApiError(422, "invalid_option", f'the option "{option}" is too large', param=field)
        if isinstance(item, Mapping):
            if not all(_NAME.fullmatch(name) for name in item):
                raise ApiError(
                    422, "invalid_option", f'the option "{option}" has a key that is no name', param=field
                )
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)

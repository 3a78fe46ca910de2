"""Tools whose results may be used again: the mark, and what tells the code of one from another's."""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class Cacheable:
    """A tool's mark: with equal arguments it gives an equal result, and it changes nothing."""

    ttl: float | None = None
    """Seconds for which that is so; None: as long as a cache keeps it."""


F = TypeVar("F", bound=Callable[..., Any])


def cacheable(*, ttl: float | None = None) -> Callable[[F], F]:
    """Mark a function whose results may be used again: ``@cacheable(ttl=60)``.

    A ``BaseTool`` is marked by its metadata: ``{"cacheable": True, "cache_ttl": 60}``.
    """

    def mark(function: F) -> F:
        function.__grpo_cacheable__ = Cacheable(ttl)  # type: ignore[attr-defined]
        return function

    return mark


def mark_of(tool: Any) -> Cacheable | None:
    """The mark of a function or a ``BaseTool``, if it has one."""
    metadata = getattr(tool, "metadata", None)
    if isinstance(metadata, dict) and metadata.get("cacheable"):
        return Cacheable(metadata.get("cache_ttl"))
    inner = getattr(tool, "coroutine", None) or getattr(tool, "func", None)  # @tool on top of the mark
    return getattr(tool, "__grpo_cacheable__", None) or getattr(inner, "__grpo_cacheable__", None)


def origin_of(tool: Any) -> str:
    """The code behind a tool and all that it holds, the same in every process if that is plain.

    What holds objects is like no other: only they know what they do.
    """
    layers: list[str] = []
    function = getattr(tool, "coroutine", None) or getattr(tool, "func", None) or tool
    while function is not None:
        held = _held(function)
        code = getattr(function, "__code__", None)
        if code is None or not all(item is None or isinstance(item, str | int | float) for item in held):
            return uuid4().hex
        digest = hashlib.blake2b(marshal.dumps(code, 2), digest_size=8).hexdigest()
        layers.append(f"{function.__module__}.{function.__qualname__} {digest} {held}")
        function = getattr(function, "__wrapped__", None)
    return "; ".join(layers)


def _held(function: Any) -> list[Any]:
    """The values that a function brings to its code besides arguments."""
    held = [getattr(function, "__self__", None), *(getattr(function, "__defaults__", None) or ())]
    held += (getattr(function, "__kwdefaults__", None) or {}).values()
    for cell in getattr(function, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not filled yet
            held.append(cell)
    return held

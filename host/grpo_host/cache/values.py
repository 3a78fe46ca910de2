"""Keep cached values as JSON text, so that nobody can change them and their size is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import orjson

_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


@dataclass(frozen=True, slots=True)
class Held:
    """A value as a cache holds it, and for how many seconds more (None: without end)."""

    data: bytes
    seconds: float | None


class JsonCache(ABC):
    """What a cache does with values, over one that finds and keeps their JSON."""

    ttl: float | None

    def get(self, key: str) -> Any | None:
        """The value, or None if there is none."""
        held = self.find(key)
        return None if held is None else decode(held.data)

    def set(self, key: str, value: Any, *, ttl: float | None = None) -> None:
        """Keep ``value`` for ``ttl`` seconds, or for the cache's own. Raises as ``encode`` does."""
        seconds = checked_ttl(ttl) if ttl is not None else self.ttl
        self.keep(key, Held(encode(key, value), seconds))

    @abstractmethod
    def find(self, key: str) -> Held | None:
        """As ``get``, without decoding it."""

    @abstractmethod
    def keep(self, key: str, held: Held) -> None:
        """As ``set``, with what is encoded already. What is larger than the cache is not kept."""


def encode(key: str, value: Any) -> bytes:
    """``value`` as JSON. Raises ``TypeError`` for what would come back as something else."""
    try:
        data = orjson.dumps(value, option=_STRICT)
    except TypeError as problem:
        raise TypeError(f'"{key}" cannot be cached: {problem}. Cache what JSON can say') from None
    if value is None or orjson.loads(data) != value:  # NaN becomes null, a tuple a list
        back = data[:80].decode(errors="replace")
        raise TypeError(
            f'"{key}" cannot be cached: {repr(value)[:80]} would come back as {back}, or as a miss. '
            "Cache what JSON can say, and no None"
        )
    return data


def decode(data: bytes) -> Any:
    """A new copy of what was encoded."""
    return orjson.loads(data)


def checked_ttl(ttl: float | None) -> float | None:
    """``ttl`` if it is None or a time; raises ``ValueError`` if not."""
    if ttl is not None and not ttl > 0:
        raise ValueError(f"ttl is a number of seconds above 0, or None, not {ttl}")
    return ttl


def checked_limit(name: str, value: int) -> int:
    """``value`` if it is 1 or more; raises ``ValueError`` if not."""
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value

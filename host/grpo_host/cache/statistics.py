"""How often a cache had what was asked for, and how full it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Counts:
    """What one cache object of this process has seen."""

    hits: int = 0
    misses: int = 0
    sets: int = 0
    evictions: int = 0
    """Entries removed before they expired, to make space for others."""
    refused: int = 0
    """Values too large to keep."""
    errors: int = 0
    """Reads and writes that failed; each is also a warning in the log."""


@dataclass(frozen=True)
class CacheStatistics:
    """``Counts`` at one moment, with what the cache holds then."""

    hits: int
    misses: int
    sets: int
    evictions: int
    refused: int
    errors: int
    entries: int
    bytes: int

    @classmethod
    def of(cls, counts: Counts, *, entries: int, size: int) -> CacheStatistics:
        return cls(**asdict(counts), entries=entries, bytes=size)

    @property
    def hit_rate(self) -> float:
        """Hits divided by look-ups; 0 before the first."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        return {**asdict(self), "hit_rate": self.hit_rate}

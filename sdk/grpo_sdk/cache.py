"""What plugins ask of a cache. ``grpo_host.cache`` has caches in memory, on disk, and both."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Cache(Protocol):
    """Keeps JSON values under text keys, and may forget them. For any thread; never blocks for long."""

    def get(self, key: str) -> Any | None:
        """The value, or None if there is none or it was evicted."""

    def set(self, key: str, value: Any, *, ttl: float | None = None) -> None:
        """Keep ``value`` for at most ``ttl`` seconds; None: for the cache's own default."""

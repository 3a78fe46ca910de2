"""``CacheService``: the guide's name of the caches in ``grpo_host.cache``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpo_host.cache import CacheStatistics, DiskCache, MemoryCache, TieredCache

__all__ = ["CacheService"]


class CacheService:
    """A bounded cache of JSON values in memory; with ``path``, also in a file between processes.

    It is a ``grpo_sdk.cache.Cache``: give it to whatever takes one. Without a ``ttl`` of its own an
    entry lives for ``ttl`` seconds in memory and ``disk_ttl`` in the file.
    """

    def __init__(
        self,
        *,
        max_entries: int = 10_000,
        max_bytes: int = 64 * 2**20,
        ttl: float | None = 3600.0,
        path: Path | str | None = None,
        disk_max_bytes: int = 2**30,
        disk_ttl: float | None = 30 * 86_400.0,
    ) -> None:
        memory = MemoryCache(max_entries=max_entries, max_bytes=max_bytes, ttl=ttl)
        self._cache: MemoryCache | TieredCache = memory
        if path is not None:
            self._cache = TieredCache(memory, DiskCache(path, max_bytes=disk_max_bytes, ttl=disk_ttl))

    def get(self, key: str) -> Any | None:
        """The value, or None if there is none."""
        return self._cache.get(key)

    def set(self, key: str, value: Any, *, ttl: float | None = None) -> None:
        """Keep ``value``, which JSON can say, for ``ttl`` seconds or the cache's own time."""
        self._cache.set(key, value, ttl=ttl)

    def delete(self, key: str) -> None:
        """Forget ``key``, if it is there."""
        self._cache.delete(key)

    def clear(self) -> None:
        """Forget everything."""
        self._cache.clear()

    def statistics(self) -> CacheStatistics:
        """Hits, misses, hit rate, and how full it is."""
        return self._cache.statistics()

    def close(self) -> None:
        """Close the file, if there is one."""
        self._cache.close()

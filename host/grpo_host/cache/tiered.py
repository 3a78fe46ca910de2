"""A cache in memory in front of one on disk, which is asked only if memory has nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from grpo_host.cache.disk import DiskCache
from grpo_host.cache.memory import MemoryCache
from grpo_host.cache.statistics import CacheStatistics
from grpo_host.cache.values import decode


class TieredCache:
    """Writes to both; what is found on disk is kept in memory from then on.

    If another process replaces a value, this one sees it once its memory has forgotten the old one.
    """

    def __init__(self, memory: MemoryCache, disk: DiskCache) -> None:
        self.memory, self.disk = memory, disk

    def get(self, key: str) -> Any | None:
        """The value, or None if neither has it."""
        held = self.memory.find(key)
        if held is None and (held := self.disk.find(key)) is not None:
            times = [seconds for seconds in (held.seconds, self.memory.ttl) if seconds is not None]
            self.memory.keep(key, replace(held, seconds=min(times, default=None)))
        return None if held is None else decode(held.data)

    def set(self, key: str, value: Any, *, ttl: float | None = None) -> None:
        """Keep ``value`` in both, in each for ``ttl`` seconds or its own."""
        self.memory.set(key, value, ttl=ttl)
        self.disk.set(key, value, ttl=ttl)

    def delete(self, key: str) -> None:
        """Forget ``key`` in both."""
        self.memory.delete(key)
        self.disk.delete(key)

    def clear(self) -> None:
        """Forget everything in both."""
        self.memory.clear()
        self.disk.clear()

    def statistics(self) -> CacheStatistics:
        """Of both as one: a hit is one of either, a miss one of both; entries and bytes are the disk's."""
        memory, disk = self.memory.statistics(), self.disk.statistics()
        return CacheStatistics(
            hits=memory.hits + disk.hits,
            misses=disk.misses,
            sets=disk.sets,
            evictions=disk.evictions,
            refused=disk.refused,
            errors=disk.errors,
            entries=disk.entries,
            bytes=disk.bytes,
        )

    def close(self) -> None:
        """Close the disk's connection."""
        self.disk.close()

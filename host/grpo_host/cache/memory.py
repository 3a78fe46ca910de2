"""A cache in this process's memory, bounded by entries, bytes and time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from cachetools import TLRUCache

from grpo_host.cache.statistics import CacheStatistics, Counts
from grpo_host.cache.values import Held, JsonCache, checked_limit, checked_ttl

ENTRY_BYTES = 400
"""About what an entry takes besides its key and value: Python's objects for them and their order."""


class MemoryCache(JsonCache):
    """Evicts what was used least recently, and what is older than its ``ttl``. For any thread."""

    def __init__(
        self,
        *,
        max_entries: int = 10_000,
        max_bytes: int = 64 * 2**20,
        ttl: float | None = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_entries = checked_limit("max_entries", max_entries)
        self._max_bytes = checked_limit("max_bytes", max_bytes)
        self.ttl = checked_ttl(ttl)
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = Counts()
        self._held: TLRUCache[str, tuple[bytes, float, int]] = TLRUCache(
            maxsize=max_bytes,
            ttu=lambda _, value, __: value[1],
            timer=clock,
            getsizeof=lambda value: value[2],
        )

    def find(self, key: str) -> Held | None:
        with self._lock:
            try:
                data, expires, _ = self._held[key]
            except KeyError:
                self._counts.misses += 1
                return None
            self._counts.hits += 1
        return Held(data, None if math.isinf(expires) else max(expires - self._clock(), 0.0))

    def keep(self, key: str, held: Held) -> None:
        size = len(held.data) + len(key.encode()) + ENTRY_BYTES
        with self._lock:
            self._counts.sets += 1
            self._held.pop(key, None)  # even if the new value is not kept: the old one is out of date
            if size > self._max_bytes:
                self._counts.refused += 1
                return
            self._held.expire()
            while len(self._held) >= self._max_entries or self._held.currsize + size > self._max_bytes:
                with suppress(KeyError):  # all that was left has expired just now
                    self._held.popitem()
                    self._counts.evictions += 1
            expires = math.inf if held.seconds is None else self._clock() + held.seconds
            self._held[key] = (held.data, expires, size)

    def delete(self, key: str) -> None:
        """Forget ``key``, if it is there."""
        with self._lock:
            self._held.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._held.clear()

    def statistics(self) -> CacheStatistics:
        """Hits, misses and what is held now."""
        with self._lock:
            self._held.expire()
            return CacheStatistics.of(self._counts, entries=len(self._held), size=int(self._held.currsize))

    def close(self) -> None:
        """Nothing to do: memory goes with the object."""

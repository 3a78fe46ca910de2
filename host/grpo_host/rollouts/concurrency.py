"""A limit on what runs side by side that can be changed while it runs."""

from __future__ import annotations

import asyncio
from collections import deque


class Gate:
    """Lets ``limit`` holders in at a time; others wait in the order of their coming.

    ``asyncio.Semaphore`` has a fixed count.
    """

    def __init__(self, limit: int) -> None:
        self._limit = _valid(limit)
        self._held = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """A higher one lets waiting holders in at once, a lower one counts as holders leave."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = _valid(limit)
        self._admit()

    @property
    def held(self) -> int:
        """How many are inside."""
        return self._held

    async def acquire(self) -> None:
        """Wait for a place and take it."""
        if self._held < self._limit and not self._waiting:
            self._held += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()  # admitted and cancelled in the same moment: the place goes on
            raise

    def release(self) -> None:
        """Give the place back."""
        self._held -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._held < self._limit:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._held += 1
                waiter.set_result(None)


def _valid(limit: int) -> int:
    if limit < 1:
        raise ValueError(f"at least one must be let in, not {limit}")
    return limit

"""The order in which the messages of a conversation are answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


class Turns:
    """Lets the messages of one conversation through one at a time, in the order of their arrival.

    They may come from several event loops, each in a thread of its own.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[_Turn]] = {}
        self._lock = threading.RLock()  # the collector may end a turn while it is held

    @asynccontextmanager
    async def of(self, conversation_id: str) -> AsyncIterator[None]:
        mine = _Turn(asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiting.setdefault(conversation_id, []).append(mine)
            self._call_up(conversation_id)
        try:
            await mine.come.wait()
            yield
        finally:
            with self._lock:
                queue = self._waiting.get(conversation_id, [])
                if mine in queue:
                    queue.remove(mine)
                self._call_up(conversation_id)

    def _call_up(self, conversation_id: str) -> None:
        queue = self._waiting.get(conversation_id, [])
        while queue:
            try:
                queue[0].loop.call_soon_threadsafe(queue[0].come.set)
                return
            except RuntimeError:  # its loop is closed: nobody goes on there
                queue.pop(0)
        self._waiting.pop(conversation_id, None)


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    loop: asyncio.AbstractEventLoop
    come: asyncio.Event

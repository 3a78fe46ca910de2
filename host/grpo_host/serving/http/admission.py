"""How many requests are answered at once, how many wait, and who is under way when the server ends."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.serving.access.caller import ANONYMOUS, Key

RETRY_SECONDS = 2.0
"""When a refused client may come again: about as long as answers take."""


WITHOUT_KEY = 0.25
"""Of all WebSockets: how many may be open that have not said their key yet."""


class Admission:
    """``places`` requests at once; ``queue`` more wait, first come first served, ``seconds`` at most."""

    def __init__(self, places: int, queue: int, seconds: float) -> None:
        self._free = places
        self._queue = queue
        self._seconds = seconds
        # Of all that are under way or wait: what one key may have, so that others get in.
        share = max(places, (places + queue) // 2)
        self._per_key = _PerKeyLimit(share, "requests of this key are under way or wait")
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    @property
    def under_way(self) -> int:
        """Requests and WebSockets that are being answered or wait."""
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def place(self, key: Key) -> AsyncIterator[None]:
        """A place for one request or message of ``key``. Raises ``ApiError`` 429 if there is none."""
        self.refuse_while_draining()
        with self._per_key.one(key):
            await self._enter()
            try:
                yield
            finally:
                self._release()

    async def _enter(self) -> None:
        if self._free > 0:
            self._free -= 1
        else:
            await self._wait()

    async def _wait(self) -> None:
        if len(self._waiting) >= self._queue:
            raise _overloaded()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._seconds):
                await turn
        except BaseException as problem:
            if turn.done() and not turn.cancelled():
                self._release()  # given a place and cancelled in the same moment
            elif turn in self._waiting:
                self._waiting.remove(turn)
            if isinstance(problem, TimeoutError):
                raise _overloaded() from None
            raise

    def _release(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the place goes on to the next
                return
        self._free += 1

    def refuse_while_draining(self) -> None:
        """Raises ``ApiError`` 503 once the server has begun to end."""
        if self.draining:
            raise shutting_down()

    def cuts(self) -> bool:
        """Whether the ``CancelledError`` that was just caught is the server's end, of which the client is
        to be told; the task goes on then."""
        task = asyncio.current_task()
        if not self.draining or task is None:
            return False
        task.uncancel()
        return True

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """The current task is waited for, and in the end cancelled, when the server ends."""
        task = asyncio.current_task()
        if task is None or task in self._tasks:
            yield
            return
        self._tasks.add(task)
        self._idle.clear()
        try:
            yield
        finally:
            self._tasks.discard(task)
            if not self._tasks:
                self._idle.set()

    def begin_draining(self) -> None:
        self.draining = True

    async def wait_until_idle(self) -> None:
        """Until nothing is under way."""
        await self._idle.wait()

    def cancel_all(self) -> int:
        """Cancel what is under way; how many that was."""
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel("the server is shutting down")
        return len(tasks)


class WebSocketLimit:
    """``most`` WebSockets at once, half of them at most of one key; those of no key yet apart."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._per_key = _PerKeyLimit((most + 1) // 2, "WebSockets of this key are open")
        self._most_without_key = max(1, int(most * WITHOUT_KEY))
        self._with_key = 0
        self._without_key = 0

    @contextmanager
    def without_key(self) -> Iterator[None]:
        """For one that has yet to say its key. Raises ``ApiError`` 429."""
        if self._without_key >= self._most_without_key:
            raise _overloaded()
        self._without_key += 1
        try:
            yield
        finally:
            self._without_key -= 1

    @contextmanager
    def with_key(self, key: Key) -> Iterator[None]:
        """For one of ``key``. Raises ``ApiError`` 429."""
        if self._with_key >= self._most:
            raise _overloaded()
        with self._per_key.one(key):
            self._with_key += 1
            try:
                yield
            finally:
                self._with_key -= 1


class _PerKeyLimit:
    """``most`` at once of each key; ``what`` says in the refusal what there are so many of."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one(self, key: Key) -> Iterator[None]:
        """One more of ``key``. Raises ``ApiError`` 429."""
        if key != ANONYMOUS and self._taken[key.id] >= self._most:
            raise ApiError(429, "too_many_at_once", f"{self._most} {self._what}", retry_after=RETRY_SECONDS)
        self._taken[key.id] += 1
        try:
            yield
        finally:
            self._taken[key.id] -= 1
            if not self._taken[key.id]:
                del self._taken[key.id]


def shutting_down() -> ApiError:
    return ApiError(503, "shutting_down", "the server is shutting down; try again", retry_after=RETRY_SECONDS)


def _overloaded() -> ApiError:
    return ApiError(429, "overloaded", "the server is busy; try again later", retry_after=RETRY_SECONDS)

"""What waits for the database at the same time goes to it together.

A transaction costs a server about as much for twenty conversations as for one: the statements are as many,
so are the ways to the database and back, and the disk is waited for once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from grpo_host.storage.database import StorageError

A = TypeVar("A")
R = TypeVar("R")

LARGEST = 64
"""How many go together: who comes first is not to wait for hundreds."""


class Groups(Generic[A, R]):
    """Does ``work`` for all at once that ask while it is busy with others, in the order of their asking.

    ``work`` gives each its result, or the exception that is its own. If it raises, and that may be for one
    of them, each is tried alone: nobody fails or waits for another. ``places`` groups are under way at a
    time. For one event loop.
    """

    def __init__(
        self, work: Callable[[Sequence[A]], Awaitable[Sequence[R | Exception]]], places: int
    ) -> None:
        self._work = work
        self._free = places
        self._waiting: deque[tuple[A, asyncio.Future[R]]] = deque()
        self._serving: set[asyncio.Task[None]] = set()

    async def ask(self, asked: A) -> R:
        """The result for ``asked``. Whoever is cancelled before it is begun has asked nothing."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._free > 0:
            self._free -= 1
            task = asyncio.create_task(self._serve())
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        return await answer

    async def _serve(self) -> None:
        try:
            while group := self._next():
                await self._answer(group)
        finally:
            self._free += 1

    def _next(self) -> list[tuple[A, asyncio.Future[R]]]:
        group: list[tuple[A, asyncio.Future[R]]] = []
        while self._waiting and len(group) < LARGEST:
            one = self._waiting.popleft()
            if not one[1].done():
                group.append(one)
        return group

    async def _answer(self, group: Sequence[tuple[A, asyncio.Future[R]]]) -> None:
        results: Sequence[R | Exception]
        try:
            results = await self._work([asked for asked, _ in group])
        except Exception as problem:
            if len(group) > 1 and _may_be_for_one(problem):
                await asyncio.gather(*(self._answer([one]) for one in group))
                return
            results = [problem] * len(group)
        except BaseException:  # the loop ends
            for _, answer in group:
                answer.cancel()
            raise
        for (_, answer), result in zip(group, results, strict=True):
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)


def _may_be_for_one(problem: Exception) -> bool:
    """Whether ``problem`` may be that of one who asked, and not of the database."""
    cause = problem.__cause__ if isinstance(problem, StorageError) else problem
    if isinstance(cause, (OperationalError, PoolTimeoutError, OSError)):
        return False
    return not (isinstance(cause, DBAPIError) and cause.connection_invalidated)

"""A time limit for a task, at two thirds of the cost of ``asyncio.timeout``: every turn has several."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any
from weakref import WeakSet

GRACE_SECONDS = 10.0
"""How long what is cancelled may clean up. Then it is cancelled again, and a plugin's coroutine is left."""

BlockedByOthers = Callable[["asyncio.Task[Any]"], float]
"""Seconds for which tasks other than this one have kept the event loop standing, so far."""

_blocked_by_others: BlockedByOthers | None = None


def count_blocked(blocked: BlockedByOthers | None) -> None:
    """Let deadlines last longer by the time for which others block the event loop."""
    global _blocked_by_others
    _blocked_by_others = blocked


def _not_by_keyboard() -> bool:
    return threading.current_thread() is not threading.main_thread()  # which alone is interrupted


_overdue: WeakSet[asyncio.Task[Any]] = WeakSet()


class Leavable:
    """``await Leavable(plugin.method())``: as the coroutine, but a limit ends it also if it will not end.

    A coroutine that catches its cancellation and goes on, as a loop of retries around ``except:`` does, is
    closed ``GRACE_SECONDS`` after the limit.
    """

    __slots__ = ("_awaitable",)

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        if not inspect.iscoroutine(self._awaitable):
            return (yield from self._awaitable.__await__())
        running = self._awaitable
        try:
            waits_for = running.send(None)
            while True:
                try:
                    got = yield waits_for
                except BaseException as problem:
                    del waits_for  # what failed holds this frame, which would hold what failed
                    if isinstance(problem, asyncio.CancelledError) and asyncio.current_task() in _overdue:
                        with contextlib.suppress(RuntimeError):  # it caught that, too
                            running.close()
                        raise
                    waits_for = running.throw(problem)
                else:
                    waits_for = running.send(got)
        except StopIteration as done:
            return done.value


class Deadline:
    """``with Deadline(seconds): await …`` raises ``TimeoutError`` if the block takes longer.

    As ``asyncio.timeout``, but it is entered without ``async``. Within a task only. ``more`` is asked
    when the time is up: for how many seconds the block may go on. Time for which others blocked the event
    loop does not count, if somebody watches it (``count_blocked``).

    What would end more than the block, ``SystemExit``, a ``KeyboardInterrupt`` that is no Ctrl-C, and a
    cancellation that nobody asked this task for (the block awaits something that was cancelled), comes out
    as ``RuntimeError``.
    """

    __slots__ = ("_blocked", "_cancelled", "_cancelling", "_expired", "_more", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float, *, more: Callable[[], float] | None = None) -> None:
        self._seconds = seconds
        self._more = more
        self._expired = False
        self._cancelled = 0

    def expired(self) -> bool:
        """Whether the time was up, so that a ``TimeoutError`` is this one's."""
        return self._expired

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task")
        self._task: asyncio.Task[Any] = task
        self._cancelling = task.cancelling()
        self._blocked = 0.0 if _blocked_by_others is None else _blocked_by_others(task)
        self._timer = task.get_loop().call_later(self._seconds, self._end)
        return self

    def _end(self) -> None:
        seconds = 0.0 if self._more is None or self._expired else self._more()
        if _blocked_by_others is not None and not self._expired:
            before, self._blocked = self._blocked, _blocked_by_others(self._task)
            seconds = max(seconds, self._blocked - before)
        if seconds > 0:
            self._timer = self._task.get_loop().call_later(seconds, self._end)
            return
        if self._expired:
            _overdue.add(self._task)
        self._expired = True
        self._cancelled += 1
        self._task.cancel()
        self._timer = self._task.get_loop().call_later(GRACE_SECONDS, self._end)

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if kind is None and not self._expired:
            return
        _overdue.discard(self._task)
        task, asked = self._task, self._cancelling
        del self._task  # of which the exception holds the block's frame, and that often this
        for _ in range(self._cancelled):
            asked = task.uncancel()
        if self._expired and asked <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from problem
        if kind is SystemExit or (kind is KeyboardInterrupt and _not_by_keyboard()):
            raise RuntimeError(f"{kind.__name__}: {problem}") from problem
        if kind is asyncio.CancelledError and not self._expired and not task.cancelling():
            raise RuntimeError("it awaited something that was cancelled") from problem

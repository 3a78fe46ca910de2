"""A time limit for a task, at two thirds of the cost of ``asyncio.timeout``: every turn has several."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

BlockedByOthers = Callable[["asyncio.Task[Any]"], float]
"""Seconds for which tasks other than this one have kept the event loop standing, so far."""

_blocked_by_others: BlockedByOthers | None = None


def count_blocked(blocked: BlockedByOthers | None) -> None:
    """Let deadlines last longer by the time for which others block the event loop."""
    global _blocked_by_others
    _blocked_by_others = blocked


class Deadline:
    """``with Deadline(seconds): await …`` raises ``TimeoutError`` if the block takes longer.

    As ``asyncio.timeout``, but it is entered without ``async``. Within a task only. ``more`` is asked
    when the time is up: for how many seconds the block may go on. Time for which others blocked the event
    loop does not count, if somebody watches it (``count_blocked``).

    What would end more than the block, ``SystemExit`` and a cancellation that nobody asked this task
    for (the block awaits something that was cancelled), comes out as ``RuntimeError``.
    """

    __slots__ = ("_blocked", "_cancelling", "_expired", "_more", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float, *, more: Callable[[], float] | None = None) -> None:
        self._seconds = seconds
        self._more = more
        self._expired = False

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
        seconds = 0.0 if self._more is None else self._more()
        if _blocked_by_others is not None:
            before, self._blocked = self._blocked, _blocked_by_others(self._task)
            seconds = max(seconds, self._blocked - before)
        if seconds > 0:
            self._timer = self._task.get_loop().call_later(seconds, self._end)
            return
        self._expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from problem
        if kind is SystemExit:
            raise RuntimeError(f"SystemExit: {problem}") from problem
        if kind is asyncio.CancelledError and not self._expired and not self._task.cancelling():
            raise RuntimeError("it awaited something that was cancelled") from problem

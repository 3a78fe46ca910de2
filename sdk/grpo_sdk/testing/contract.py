"""What all contracts share: a failure that says how to mend it, and one event loop."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import functools
import inspect
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar
from unittest import SkipTest

from grpo_sdk import deadline
from grpo_sdk.blocking import call_blocking, settled
from grpo_sdk.deadline import Deadline, Leavable
from grpo_sdk.testing.checks import require

T = TypeVar("T")
Within: TypeAlias = Callable[[Awaitable[object]], Awaitable[None]]
"""Awaits a plugin's coroutine, but no longer than a limit."""

_runner: asyncio.Runner | None = None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` on the one event loop of all contract tests: the host has one too, so a client that a
    plugin keeps stays usable."""
    global _runner
    if _runner is None:
        _runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        atexit.register(_close, _runner)
    return _runner.run(work, context=contextvars.copy_context())


def _close(runner: asyncio.Runner) -> None:
    # From Python 3.12 no thread begins while the interpreter ends, and the loop would begin one to wait for
    # those of its executor. They have ended before; the loop is closed nevertheless.
    with contextlib.suppress(RuntimeError):
        runner.close()


async def called(function: Callable[..., Any], *args: Any) -> Any:
    """What ``function`` of a plugin gives, called as the host does: if it is no coroutine, in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    return await settled(await call_blocking(function, *args))


class Contract:
    """A class of tests. The docstring of each begins with ``Fix: ``, and stands in its failure's message."""

    blocking_seconds: ClassVar[float] = 0.2
    """A coroutine that keeps the event loop longer than this blocks it. On Linux, time in which other
    processes had the processor does not count."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, test in list(vars(cls).items()):
            if name.startswith("test_") and inspect.isfunction(test) and (test.__doc__ or "")[:5] == "Fix: ":
                setattr(cls, name, _with_mending(test))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the event loop of all contract tests."""
        return run(work)

    def require_unblocked(self, play: Callable[[list[float]], Coroutine[Any, Any, object]], who: str) -> None:
        """Fail if ``play``, which notes how long its steps kept the loop, has a long one each time."""
        longest = 0.0
        for _ in range(2):  # the first may import something, or the machine be busy
            steps: list[float] = []
            self.run(play(steps))
            longest = max(steps, default=0.0)
            if longest <= self.blocking_seconds:
                return
        require(
            False,
            f"{who} blocked the event loop for {longest:.2f} s, and with it every other episode: await what "
            "takes time, or give it to grpo_sdk.blocking.call_blocking",
        )

    def require_cancellable(self, play: Callable[[Within], Awaitable[object]], who: str) -> None:
        """Fail if a coroutine that ``play`` awaits within the limit it is given goes on after that."""
        for seconds in (0.0, 0.01):  # in its first wait, and in a later one
            longest, came = self.run(_beyond(play, seconds))
            goes_on = f"{who} catches its cancellation and goes on: no time limit ends it"
            require(longest < deadline.GRACE_SECONDS, f"{goes_on} before it is left by force")
            require(not came, f"{goes_on}, and what it gives then counts as if it had come in time")


async def _beyond(play: Callable[[Within], Awaitable[object]], seconds: float) -> tuple[float, bool]:
    """How long ``play`` took with what it awaited within ``seconds``, and whether that came all the same."""
    longest, came = 0.0, False

    async def within(work: Awaitable[object]) -> None:
        nonlocal longest, came
        began = time.perf_counter()
        with contextlib.suppress(Exception), Deadline(seconds) as limit:
            await Leavable(work)
            came = came or limit.expired()
        longest = max(longest, time.perf_counter() - began)

    await play(within)
    return longest, came


@types.coroutine
def timed(work: Awaitable[T], steps: list[float]) -> Generator[Any, Any, T]:
    """Await ``work``, and note in ``steps`` how long each of its steps kept the event loop."""
    steps_of = work.__await__()
    error: BaseException | None = None
    while True:
        began = _own_time()
        try:
            waits_for = next(steps_of) if error is None else steps_of.throw(error)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            steps.append(_own_time() - began)
        error = None
        try:
            yield waits_for
        except BaseException as problem:
            error = problem


def _own_time() -> float:
    """A clock that stands still while this thread could run and other threads have the cores."""
    try:
        waited = int(Path("/proc/thread-self/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        waited = 0.0
    return time.perf_counter() - waited


def _with_mending(test: Callable[..., None]) -> Callable[..., None]:
    mending = " ".join(inspect.cleandoc(test.__doc__ or "").split())

    @functools.wraps(test)
    def told(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        try:
            test(*args, **kwargs)
        except SkipTest:
            raise
        except AssertionError as problem:
            if mending not in str(problem):
                problem.args = (f"{problem}\n{mending}",)
            raise
        except Exception as problem:
            problem.add_note(mending)
            raise

    return told

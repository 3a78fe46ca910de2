"""An event loop in a thread of its own, for synchronous callers such as a trainer or a notebook.

Not anyio's ``start_blocking_portal``: there, a task's ``SystemExit`` cancels all others; a call that is
cancelled is cancelled again at each ``await`` of its cleaning up; leaving waits without limit, even for
Ctrl-C; and nothing can end it that runs in its own loop, as the garbage collector may.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_SECONDS = 0.2
END_SECONDS = 30.0


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed (vLLM and most servers bring it): it halves the cost of I/O."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, for a synchronous function that may be called inside of an event loop.

    The coroutine must not need that loop, which stands still meanwhile. An interrupt does not wait for it.
    """
    result: Future[T] = Future()

    def work() -> None:
        try:
            result.set_result(asyncio.run(coroutine))
        except BaseException as problem:
            result.set_exception(problem)

    threading.Thread(target=work, name="grpo-run-blocking", daemon=True).start()
    return result.result()


class Runner:
    """Runs coroutines in ``loop``, which another thread turns, for threads without one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def run(self, coroutine: Coroutine[Any, Any, T], *, check: Callable[[], None] = lambda: None) -> T:
        """The coroutine's result.

        ``check`` is called a few times a second; what it raises, and an interrupt, cancel the
        coroutine and go on to the caller.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            while not wait([future], timeout=CHECK_SECONDS).done:
                check()
            return future.result()
        except BaseException:
            future.cancel()
            raise


class LoopThread(Runner):
    """Runs coroutines for threads that have no event loop, or that may already be inside of one."""

    def __init__(self, name: str = "grpo-rollouts") -> None:
        super().__init__(new_event_loop())
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while not self._turn():
                pass
        finally:
            self.loop.close()
            atexit.unregister(self._thread.join)

    def _turn(self) -> bool:
        """Run until the loop is stopped; False if a task stopped it for everybody.

        Ctrl-C comes to the main thread: a ``KeyboardInterrupt`` here is a task's, as a ``SystemExit`` is.
        """
        try:
            self.loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as problem:
            logger.warning("a task ended with %s: %s; the others go on", type(problem).__name__, problem)
            return False
        return True

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result, for a caller in any event loop. Cancelling the call cancels it."""
        if asyncio.get_running_loop() is self.loop:
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def close(self) -> None:
        """Cancel what still runs and end the thread. Safe to call twice."""
        if self.loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), self.loop).result(END_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(END_SECONDS)

    def end_with(self, last: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Run the coroutine that ``last`` makes and end the thread, without waiting for either.

        The interpreter's exit waits for both, ``END_SECONDS`` at most: a daemon thread that is inside of a
        library while it goes down can crash the process.
        """

        async def end() -> None:
            try:
                await last()
            finally:
                self.loop.stop()

        if not self.loop.is_closed():
            atexit.register(self._thread.join, END_SECONDS)
            asyncio.run_coroutine_threadsafe(end(), self.loop)


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""Call plugins' methods, which may be functions or coroutines; keep blocking ones off the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from grpo_sdk.deadline import Leavable

T = TypeVar("T")


async def settled(value: T | Awaitable[T]) -> T:
    """``value``, awaited if a plugin's method was a coroutine."""
    return await value if inspect.isawaitable(value) else value


def awaited(value: Any, method: str) -> Awaitable[Any]:
    """The result of the coroutine ``value``. Raises ``TypeError`` if a plugin's ``method`` is none."""
    if not inspect.isawaitable(value):
        raise TypeError(f'it is a plain function; write "async def {method}"')
    return Leavable(value)


async def call_blocking(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call ``function`` in a daemon thread of its own.

    Not ``asyncio.to_thread``: its few shared threads would all be taken by a handful of calls
    that hang, and the interpreter would wait for them at exit. A call that is cancelled (a time
    limit) is abandoned: Python cannot stop a thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    call = partial(contextvars.copy_context().run, function, *args, **kwargs)

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = call()
        except (
            StopIteration,
            SystemExit,
            KeyboardInterrupt,
        ) as problem:  # a future, and a loop, cannot carry them
            error = RuntimeError(f"{type(problem).__name__}: {problem}").with_traceback(problem.__traceback__)
        except BaseException as problem:
            error = problem
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # The loop closed: nobody waits any more.

    threading.Thread(target=work, name=f"blocking-{function!r:.40}", daemon=True).start()
    return await future

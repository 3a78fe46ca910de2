"""SIGTERM, Ctrl-C and a closed terminal: first what is under way ends, in a bounded time, then the server."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_host.serving.services import Services

logger = logging.getLogger("grpo_host.serving")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def drain_at_signals(services: Services) -> Iterator[None]:
    """While inside, a first signal drains ``services`` and then goes on to the handler that was there.

    Meanwhile the server still listens, so that it can say that it is ending: readiness and new requests
    are answered 503. A second signal goes on at once. Only uvicorn's kind of handler is wrapped, and
    only in the main thread, where signals come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    earlier: dict[int, Any] = {}
    tasks: list[asyncio.Task[None]] = []

    async def end(number: int, frame: FrameType | None) -> None:
        logger.info("shutting down: waiting up to %g s for requests", services.settings.drain_seconds)
        try:
            await services.drain(services.settings.drain_seconds)
        finally:
            earlier[number](number, frame)

    def handle(number: int, frame: FrameType | None) -> None:
        if services.draining.is_set() or tasks:
            earlier[number](number, frame)
        else:
            loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(end(number, frame))))

    for number in SIGNALS:
        found = signal.getsignal(number)
        if callable(found):
            earlier[number] = found
            signal.signal(number, handle)
    # Where the server handles signals, the terminal's closing is one more; ignored, as under nohup, it stays.
    hangup = signal.SIGTERM in earlier and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    if hangup:
        earlier[signal.SIGHUP] = earlier[signal.SIGTERM]
        signal.signal(signal.SIGHUP, handle)
    try:
        yield
    finally:
        for wrapped, handler in earlier.items():
            if signal.getsignal(wrapped) is handle:
                signal.signal(wrapped, signal.SIG_DFL if wrapped == signal.SIGHUP and hangup else handler)

"""An answer as it comes: what it tells piece by piece, and then the whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from grpo_host.agents.reply import OnText

T = TypeVar("T")


async def astreamed(ask: Callable[[OnText], Coroutine[Any, Any, T]]) -> AsyncGenerator[str | T, None]:
    """The texts that ``ask`` is told, from any thread, as they come, and then its result.

    Closing it cancels the answer, and waits for its end.
    """
    loop = asyncio.get_running_loop()
    texts: asyncio.Queue[str | None] = asyncio.Queue()

    def hear(text: str | None) -> None:
        if asyncio._get_running_loop() is loop:
            texts.put_nowait(text)
        else:
            loop.call_soon_threadsafe(texts.put_nowait, text)

    answer = asyncio.ensure_future(ask(hear))
    answer.add_done_callback(lambda _: hear(None))
    try:
        while (text := await texts.get()) is not None:
            yield text
        yield await answer
    finally:
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)

"""A backend in an event loop of its own, so that any other loop can call it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from grpo_host.loop import LoopThread
from grpo_sdk.backend import Backend, ChatReply, Sampling, Tokenizer, TokenReply
from grpo_sdk.blocking import call_blocking
from grpo_sdk.messages import Message, ToolSchema

if TYPE_CHECKING:
    from grpo_sdk.backend import NamedWeights

T = TypeVar("T")


class AnyLoopBackend(Backend):
    """``inner``, which is not started yet, in a thread of its own.

    A backend belongs to the event loop that starts it. An object that lives through several
    ``asyncio.run`` calls, or that a trainer's thread shares with a chat, calls it through here; that
    takes some 0.1 ms a call. Where nobody holds this object any more, ``inner`` is closed.
    """

    def __init__(self, inner: Backend, *, chosen: bool = False) -> None:
        super().__init__(inner.model)
        self.capabilities = inner.capabilities  # type: ignore[misc]  # of this one instance
        self.inner = inner
        self.chosen = chosen
        """Nobody asked for this kind of backend: it seemed the best."""
        self.weights = ""
        """Names the weights that replaced those it started with: another name for every change."""
        self._thread = LoopThread("grpo-model")
        self._end = weakref.finalize(self, self._thread.end_with, inner.close)
        self._end.atexit = False  # then threads are ended by the interpreter

    async def start(self) -> None:
        await self._thread.call(self.inner.start())

    async def close(self) -> None:
        if self._end.detach() is None:
            return
        await self._thread.call(self.inner.close())
        await call_blocking(self._thread.close)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.inner.tokenizer

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        return await self._thread.call(self.inner.generate(prompt, sampling))

    async def stream_ids(
        self, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncIterator[list[int] | TokenReply]:
        async with aclosing(self._carried(lambda: self.inner.stream_ids(prompt, sampling))) as items:
            async for item in items:
                yield item

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        return await self._thread.call(self.inner.chat(messages, sampling, tools))

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncIterator[str | ChatReply]:
        async with aclosing(self._carried(lambda: self.inner.stream(messages, sampling, tools))) as items:
            async for item in items:
                yield item

    async def update_weights(self, weights: NamedWeights, *, version: int) -> None:
        self.weights = uuid4().hex
        await self._thread.call(self.inner.update_weights(weights, version=version))

    async def load_adapter(self, path: Path) -> None:
        self.weights = uuid4().hex
        await self._thread.call(self.inner.load_adapter(path))

    async def _carried(self, make: Callable[[], AsyncIterator[T]]) -> Any:
        """What the iterator that ``make`` gives yields there, yielded here."""
        here = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[T] | None] = asyncio.Queue()

        def put(item: tuple[T] | None) -> None:
            here.call_soon_threadsafe(queue.put_nowait, item)

        async def feed() -> None:
            items: Any = make()
            try:
                async with aclosing(items):
                    async for item in items:
                        put((item,))
            finally:
                put(None)

        fed = asyncio.run_coroutine_threadsafe(feed(), self._thread.loop)
        try:
            while (item := await queue.get()) is not None:
                yield item[0]
            await asyncio.wrap_future(fed)
        finally:
            fed.cancel()

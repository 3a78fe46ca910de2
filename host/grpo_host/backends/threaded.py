"""A backend in an event loop of its own, so that any other loop can call it."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from grpo_host.backends.event_loop import LoopThread
from grpo_sdk.backend import Backend, ChatReply, Sampling, Tokenizer, TokenReply
from grpo_sdk.blocking import call_blocking
from grpo_sdk.errors import GrpoError
from grpo_sdk.messages import Message, ToolSchema

if TYPE_CHECKING:
    from grpo_sdk.backend import NamedWeights

T = TypeVar("T")


class _Engine:
    """A backend that is not started yet and the thread that its loop turns in, for all who hold it."""

    def __init__(self, inner: Backend, key: Hashable = None) -> None:
        self.inner = inner
        self.key = key
        self.thread = LoopThread("grpo-model")
        self.holders: weakref.WeakSet[AnyLoopBackend] = weakref.WeakSet()
        self._started: Future[None] | None = None
        self._end = weakref.finalize(self, self.thread.end_with, inner.close)
        self._end.atexit = False  # then threads are ended by the interpreter

    async def start(self) -> None:
        """Start the backend, once for all holders. Raises what that raises."""
        with _sharing:
            if self._started is None:
                self._started = asyncio.run_coroutine_threadsafe(self.inner.start(), self.thread.loop)
        await asyncio.shield(asyncio.wrap_future(self._started))

    def withdraw(self) -> None:
        """Give it to nobody else from now on."""
        if _shared.get(self.key) is self:
            del _shared[self.key]

    async def leave(self, holder: AnyLoopBackend) -> None:
        """Let ``holder`` go. The last one closes the backend."""
        with _sharing:
            self.holders.discard(holder)
            if self.holders:
                return
            self.withdraw()
        if self._end.detach() is not None:
            await self.thread.call(self.inner.close())
            await call_blocking(self.thread.close)


_shared: weakref.WeakValueDictionary[Hashable, _Engine] = weakref.WeakValueDictionary()
_sharing = threading.RLock()  # the collector may end an engine while it is held


class AnyLoopBackend(Backend):
    """``inner``, which is not started yet, in a thread of its own.

    A backend belongs to the event loop that starts it. An object that lives through several
    ``asyncio.run`` calls, or that a trainer's thread shares with a chat, calls it through here; that
    takes some 0.1 ms a call. Where nobody holds this object any more, ``inner`` is closed.
    """

    def __init__(self, inner: Backend, *, chosen: bool = False) -> None:
        self._hold(_Engine(inner), chosen, None)

    @classmethod
    def shared(cls, key: Hashable, make: Callable[[], Backend], *, chosen: bool = False) -> AnyLoopBackend:
        """One on the backend that ``make`` makes, or on the one that another has under the same ``key``.

        It is closed with the last of them. One whose weights are replaced gets a backend of its own first.
        """
        with _sharing:
            engine = _shared.get(key)
            if engine is None:
                engine = _shared[key] = _Engine(make(), key)
            made = cls.__new__(cls)
            made._hold(engine, chosen, make)
            return made

    def _hold(self, engine: _Engine, chosen: bool, make: Callable[[], Backend] | None) -> None:
        super().__init__(engine.inner.model)
        self.capabilities = engine.inner.capabilities  # type: ignore[misc]  # of this one instance
        self.chosen = chosen
        """Nobody asked for this kind of backend: it seemed the best."""
        self.weights = ""
        """Names the weights that replaced those it started with: another name for every change."""
        self._make = make
        self._engine = engine
        engine.holders.add(self)

    @property
    def inner(self) -> Backend:
        """The backend itself, which others may use too."""
        return self._engine.inner

    @property
    def _thread(self) -> LoopThread:
        return self._engine.thread

    async def start(self) -> None:
        try:
            await self._engine.start()
        except BaseException:
            self._engine.withdraw()
            raise

    async def close(self) -> None:
        await self._engine.leave(self)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """A backend that fails may be broken: whoever comes from now on gets another."""
        try:
            yield
        except GrpoError:
            raise
        except Exception:
            self._engine.withdraw()
            raise

    async def _own_weights(self) -> None:
        """Leave a backend that others use too, whose weights stay as they are, for one of its own."""
        engine = self._engine
        with _sharing:
            if self._make is None or set(engine.holders) <= {self}:
                engine.withdraw()
                return
        own = _Engine(self._make())
        own.holders.add(self)
        try:
            await own.start()
        except BaseException:
            await own.leave(self)
            raise
        self._engine = own
        await engine.leave(self)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.inner.tokenizer

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        with self._watched():
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
        with self._watched():
            return await self._thread.call(self.inner.chat(messages, sampling, tools))

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncIterator[str | ChatReply]:
        async with aclosing(self._carried(lambda: self.inner.stream(messages, sampling, tools))) as items:
            async for item in items:
                yield item

    async def update_weights(self, weights: NamedWeights, *, version: int) -> None:
        await self._own_weights()
        self.weights = uuid4().hex
        await self._thread.call(self.inner.update_weights(weights, version=version))

    async def load_adapter(self, path: Path) -> None:
        await self._own_weights()
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
            with self._watched():
                await asyncio.wrap_future(fed)
        finally:
            fed.cancel()

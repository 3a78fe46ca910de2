"""A backend in an event loop of its own, so that any other loop can call it."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from grpo_host.backends.event_loop import LoopThread
from grpo_host.backends.wrapper import BackendWrapper
from grpo_sdk.backend import Backend
from grpo_sdk.blocking import call_blocking
from grpo_sdk.errors import GrpoError

if TYPE_CHECKING:
    from grpo_sdk.backend import NamedWeights

T = TypeVar("T")


class _Engine:
    """A backend that is not started yet and the thread that its loop turns in, for all who hold it."""

    def __init__(self, inner: Backend, key: Hashable = None) -> None:
        self.inner = inner
        self.key = key
        self.holders: weakref.WeakSet[ThreadedBackend] = weakref.WeakSet()
        self._thread: LoopThread | None = None
        self._end: weakref.finalize[Any, _Engine] | None = None
        self._started: Future[None] | None = None

    @property
    def thread(self) -> LoopThread:
        """Begins with the first use."""
        with _sharing:
            if self._thread is None:
                self._thread = LoopThread("grpo-model")
                self._end = weakref.finalize(self, self._thread.end_with, self.inner.close)
                self._end.atexit = False  # then threads are ended by the interpreter
            return self._thread

    @property
    def started(self) -> bool:
        start = self._started
        return start is not None and start.done() and not start.cancelled() and start.exception() is None

    async def start(self) -> None:
        """Start the backend, once for all holders, and again if that failed. Raises what that raises."""
        with _sharing:
            if self._started is None or (self._started.done() and not self.started):
                self._started = asyncio.run_coroutine_threadsafe(self.inner.start(), self.thread.loop)
            started = self._started
        await asyncio.shield(asyncio.wrap_future(started))

    def withdraw(self) -> None:
        """Give it to nobody else from now on."""
        if _shared.get(self.key) is self:
            del _shared[self.key]

    async def leave(self, holder: ThreadedBackend) -> None:
        """Let ``holder`` go. The last one closes the backend."""
        with _sharing:
            self.holders.discard(holder)
            if self.holders:
                return
            self.withdraw()
            thread, self._thread = self._thread, None
            end, self._end = self._end, None
            started, self._started = self._started, None
        if thread is None or end is None or end.detach() is None:
            return
        try:
            if started is not None:
                started.cancel()
            await thread.call(self.inner.close())
        finally:
            await call_blocking(thread.close)


_shared: weakref.WeakValueDictionary[Hashable, _Engine] = weakref.WeakValueDictionary()
_sharing = threading.RLock()  # the collector may end an engine while it is held


class ThreadedBackend(BackendWrapper):
    """``inner``, which is not started yet, in a thread of its own.

    A backend belongs to the event loop that starts it. An object that lives through several
    ``asyncio.run`` calls, or that a trainer's thread shares with a chat, calls it through here; that
    takes some 0.1 ms a call. If nobody holds this object any more, ``inner`` is closed.
    """

    def __init__(self, inner: Backend, *, chosen: bool = False) -> None:
        self._hold(_Engine(inner), chosen, None)

    @classmethod
    def shared(cls, key: Hashable, make: Callable[[], Backend], *, chosen: bool = False) -> ThreadedBackend:
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
        super().__init__(engine.inner)
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
    def started(self) -> bool:
        """Whether the backend runs."""
        return self._engine.started

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

    async def update_weights(self, weights: NamedWeights, *, version: int) -> None:
        await self._own_weights()
        self.weights = uuid4().hex
        await super().update_weights(weights, version=version)

    async def update_adapter(self, path: Path | None, *, version: int) -> None:
        await self._own_weights()
        self.weights = uuid4().hex
        await super().update_adapter(path, version=version)

    async def load_adapter(self, path: Path) -> None:
        await self._own_weights()
        self.weights = uuid4().hex
        await super().load_adapter(path)

    async def _call(self, ask: Callable[[], Awaitable[T]]) -> T:
        with self._watched():
            return await self._engine.thread.call(_awaited(ask))

    async def _iterate(self, ask: Callable[[], AsyncIterator[T]]) -> AsyncIterator[T]:
        here = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[T] | None] = asyncio.Queue()

        def put(item: tuple[T] | None) -> None:
            here.call_soon_threadsafe(queue.put_nowait, item)

        async def feed() -> None:
            items: Any = ask()
            try:
                async with aclosing(items):
                    async for item in items:
                        put((item,))
            finally:
                put(None)

        fed = asyncio.run_coroutine_threadsafe(feed(), self._engine.thread.loop)
        try:
            while (item := await queue.get()) is not None:
                yield item[0]
            with self._watched():
                await asyncio.wrap_future(fed)
        finally:
            fed.cancel()


async def _awaited(ask: Callable[[], Awaitable[T]]) -> T:
    return await ask()

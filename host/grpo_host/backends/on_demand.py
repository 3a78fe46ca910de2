"""Backends for plugins that ask for one, such as a judge: they chat, and start when first asked."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock
from typing import ClassVar

from grpo_host.agents.rendering import Renderer, make_renderer
from grpo_host.agents.session import TokenSession
from grpo_host.backends.event_loop import LoopThread
from grpo_sdk.backend import Backend, Capability, ChatReply, Sampling
from grpo_sdk.blocking import call_blocking
from grpo_sdk.errors import CapabilityError
from grpo_sdk.messages import Message, ToolSchema


def can_chat(backend: Backend | type[Backend]) -> bool:
    """Whether it chats, or speaks token ids, through which the host lets it chat."""
    return bool({Capability.CHAT, Capability.TOKEN_IDS} & backend.capabilities)


class ChatThroughTokens(Backend):
    """Chat and tools on a backend that speaks only token ids: the host renders and parses."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CHAT, Capability.TOOLS})

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend.model)
        if Capability.TOKEN_IDS not in backend.capabilities:
            raise CapabilityError(f"the backend {type(backend).__name__} does not speak token ids")
        if Capability.SEED in backend.capabilities:
            self.capabilities = self.capabilities | {Capability.SEED}  # type: ignore[misc]
        self.backend = backend
        self._renderer: Renderer | None = None

    async def start(self) -> None:
        await self.backend.start()
        self._renderer = make_renderer(self.backend.tokenizer, self.backend.model)

    async def close(self) -> None:
        await self.backend.close()

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        if self._renderer is None:
            raise RuntimeError("the backend is not running; await start() first")
        session = TokenSession(self.backend, self._renderer, messages, tools)
        reply = await session.respond([], sampling)
        return ChatReply(reply.message, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens)


class OnDemandBackend(Backend):
    """Chats with ``backend``, which starts at the first call, on an event loop of its own.

    So it can be asked from any number of event loops, and a caller that gives up waiting for a
    model to load does not end the loading. A start that failed is tried again at the next call.
    Where nobody holds this object any more, ``backend`` is closed.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend.model)
        if not can_chat(backend):
            raise CapabilityError(
                f"the backend {type(backend).__name__} can neither chat nor speak token ids"
            )
        chats = Capability.CHAT in backend.capabilities
        self.backend = backend if chats else ChatThroughTokens(backend)
        offered = {Capability.CHAT, Capability.TOOLS, Capability.SEED}
        self.capabilities = frozenset(offered & self.backend.capabilities)  # type: ignore[misc]
        self._lock = Lock()
        self._loop: LoopThread | None = None
        self._start: Future[None] | None = None

    @property
    def started(self) -> bool:
        """Whether the backend runs."""
        start = self._start
        return start is not None and start.done() and start.exception() is None

    async def start(self) -> None:
        """Start now rather than at the first call. Safe to call again."""
        with self._lock:
            if self._loop is None:
                self._loop = LoopThread("on-demand-backend")
                self._end = weakref.finalize(self, self._loop.end_with, self.backend.close)
                self._end.atexit = False  # then threads are ended by the interpreter
            if self._start is None or (self._start.done() and not self.started):
                self._start = asyncio.run_coroutine_threadsafe(self.backend.start(), self._loop.loop)
            start = self._start
        await asyncio.shield(asyncio.wrap_future(start))

    async def close(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
            start, self._start = self._start, None
        if loop is None:
            return
        self._end.detach()
        try:
            if start is not None:
                start.cancel()
            await loop.call(self.backend.close())
        finally:
            await call_blocking(loop.close)

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        await self.start()
        loop = self._loop
        if loop is None:
            raise RuntimeError("the backend was closed while it was asked")
        return await loop.call(self.backend.chat(messages, sampling, tools))

"""Backends for plugins that ask for one, such as a judge: they chat, and start when first asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from grpo_host.agents.backend_failure import answer_of
from grpo_host.agents.rendering import Renderer, make_renderer
from grpo_host.agents.session import TokenSession
from grpo_host.backends.threaded import ThreadedBackend
from grpo_host.backends.wrapper import BackendWrapper
from grpo_sdk.backend import Backend, Capability, ChatReply, Sampling
from grpo_sdk.errors import CapabilityError
from grpo_sdk.messages import Message, ToolSchema

T = TypeVar("T")

_CHATTING = {Capability.CHAT, Capability.TOOLS, Capability.SEED, Capability.STRUCTURED}


def can_chat(backend: Backend | type[Backend]) -> bool:
    """Whether it chats, or speaks token ids, through which the host lets it chat."""
    return bool({Capability.CHAT, Capability.TOKEN_IDS} & backend.capabilities)


class ChatThroughTokens(BackendWrapper):
    """Chat and tools on a backend that speaks only token ids: the host renders and parses."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        if Capability.TOKEN_IDS not in inner.capabilities:
            raise CapabilityError(f"the backend {type(inner).__name__} does not speak token ids")
        self.capabilities = frozenset({Capability.CHAT, Capability.TOOLS}) | (
            {Capability.SEED, Capability.STRUCTURED} & inner.capabilities
        )
        self._renderer: Renderer | None = None

    async def start(self) -> None:
        await self.inner.start()
        self._renderer = make_renderer(self.inner.tokenizer, self.inner.model)

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        if self._renderer is None:
            raise RuntimeError("the backend is not running; await start() first")
        session = TokenSession(self.inner, self._renderer, messages, tools)
        reply = await session.respond([], sampling)
        return ChatReply(reply.message, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens)


class OnDemandBackend(ThreadedBackend):
    """Chats with ``inner``, which starts at the first call, on an event loop of its own.

    So it can be asked from any number of event loops, and a caller that gives up waiting for a
    model to load does not end the loading. A start that failed is tried again at the next call.
    If nobody holds this object any more, ``inner`` is closed.
    """

    def __init__(self, inner: Backend) -> None:
        self.ask(inner)

    def ask(self, inner: Backend) -> None:
        """From now on, chat with ``inner``. Nobody has asked the one before."""
        if not can_chat(inner):
            raise CapabilityError(f"the backend {type(inner).__name__} can neither chat nor speak token ids")
        super().__init__(inner if Capability.CHAT in inner.capabilities else ChatThroughTokens(inner))
        self.capabilities = self.capabilities & _CHATTING

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        return await answer_of(self.inner, "chat", super().chat(messages, sampling, tools), ChatReply)

    async def _call(self, ask: Callable[[], Awaitable[T]]) -> T:
        await self.start()
        return await super()._call(ask)

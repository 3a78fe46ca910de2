"""A backend around another one: the base of all that add something to a backend's calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpo_sdk.backend import Backend, Capability, ChatReply, Sampling, Tokenizer, TokenReply
from grpo_sdk.messages import Message, ToolSchema

if TYPE_CHECKING:
    from grpo_sdk.backend import NamedWeights

T = TypeVar("T")


class BackendWrapper(Backend):
    """Passes every call on to ``inner``; what is not among its ``capabilities`` is refused.

    These are the inner one's, unless a subclass changes them. A subclass overrides ``_call`` and
    ``_iterate``, through which all calls go, or single methods.
    """

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner.model)
        self.capabilities = inner.capabilities
        self._inner = inner

    @property
    def inner(self) -> Backend:
        """The backend that is asked."""
        return self._inner

    async def _call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """One call of ``inner``."""
        return await ask()

    def _iterate(self, ask: Callable[[], AsyncIterator[T]]) -> AsyncIterator[T]:
        """One stream of ``inner``."""
        return ask()

    def _need(self, capability: Capability) -> None:
        if capability not in self.capabilities:
            raise self._cannot(capability)

    async def start(self) -> None:
        await self._call(self.inner.start)

    async def close(self) -> None:
        await self._call(self.inner.close)

    @property
    def tokenizer(self) -> Tokenizer:
        self._need(Capability.TOKEN_IDS)
        return self.inner.tokenizer

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        self._need(Capability.TOKEN_IDS)
        return await self._call(lambda: self.inner.generate(prompt, sampling))

    def stream_ids(self, prompt: Sequence[int], sampling: Sampling) -> AsyncIterator[list[int] | TokenReply]:
        self._need(Capability.TOKEN_IDS)
        return self._iterate(lambda: self.inner.stream_ids(prompt, sampling))

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        self._need(Capability.CHAT)
        return await self._call(lambda: self.inner.chat(messages, sampling, tools))

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncIterator[str | ChatReply]:
        self._need(Capability.STREAMING)
        return self._iterate(lambda: self.inner.stream(messages, sampling, tools))

    async def update_weights(self, weights: NamedWeights, *, version: int) -> None:
        self._need(Capability.WEIGHT_SYNC)
        await self._call(lambda: self.inner.update_weights(weights, version=version))

    async def update_adapter(self, path: Path | None, *, version: int) -> None:
        self._need(Capability.ADAPTER_SYNC)
        await self._call(lambda: self.inner.update_adapter(path, version=version))

    def connection(self) -> Mapping[str, Any]:
        self._need(Capability.ADAPTER_SYNC)
        return self.inner.connection()

    def connect(self, connection: Mapping[str, Any]) -> None:
        self._need(Capability.ADAPTER_SYNC)
        self.inner.connect(connection)

    async def load_adapter(self, path: Path) -> None:
        self._need(Capability.ADAPTERS)
        await self._call(lambda: self.inner.load_adapter(path))


def innermost(backend: Backend) -> Backend:
    """The backend that answers, under all wrappers."""
    while isinstance(backend, BackendWrapper):
        backend = backend.inner
    return backend

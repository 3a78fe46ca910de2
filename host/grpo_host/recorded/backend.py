"""A backend whose answers are kept, or that answers from what was kept and is never started."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_host.backends.wrapper import BackendWrapper
from grpo_host.recorded.answers import Answers
from grpo_host.recorded.request import chat_request, token_request
from grpo_sdk.backend import Backend, Capability, ChatReply, Sampling, Tokenizer, TokenReply
from grpo_sdk.blocking import call_blocking
from grpo_sdk.messages import Message, ToolSchema

if TYPE_CHECKING:
    from grpo_sdk.backend import NamedWeights


def is_hosted(backend: Backend) -> bool:
    """Whether its model runs elsewhere: it loads no weights here, or servers have them."""
    return (
        Capability.LOCAL_WEIGHTS not in backend.capabilities
        or Capability.ADAPTER_SYNC in backend.capabilities
    )


class RecordedBackend(BackendWrapper):
    """``inner``, which ``answers`` calls ``who``."""

    def __init__(self, inner: Backend, answers: Answers, who: str) -> None:
        super().__init__(inner)
        self._answers = answers
        self._who = who
        self._tokenizer: Tokenizer | None = None

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        self._need(Capability.TOKEN_IDS)
        request = token_request(self._who, prompt, sampling)
        return await self._answers.answer(
            request, lambda: self.inner.generate(prompt, sampling), asdict, lambda kept: TokenReply(**kept)
        )

    async def stream_ids(
        self, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncIterator[list[int] | TokenReply]:
        reply = await self.generate(prompt, sampling)
        yield reply.ids
        yield reply

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        self._need(Capability.CHAT)
        request = chat_request(self._who, messages, sampling, tools)
        return await self._answers.answer(
            request,
            lambda: self.inner.chat(messages, sampling, tools),
            asdict,
            lambda kept: ChatReply(**kept),
        )

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncIterator[str | ChatReply]:
        reply = await self.chat(messages, sampling, tools)
        yield reply.message["content"]
        yield reply

    async def start(self) -> None:
        if not self._answers.replays:
            await self.inner.start()
        elif Capability.TOKEN_IDS in self.capabilities:
            self._tokenizer = await call_blocking(_tokenizer, self.model.path)

    async def close(self) -> None:
        if not self._answers.replays:
            await self.inner.close()

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer or self.inner.tokenizer

    async def update_weights(self, weights: NamedWeights, *, version: int) -> None:
        if not self._answers.replays:
            await self.inner.update_weights(weights, version=version)

    async def update_adapter(self, path: Path | None, *, version: int) -> None:
        if not self._answers.replays:
            await self.inner.update_adapter(path, version=version)

    async def load_adapter(self, path: Path) -> None:
        if not self._answers.replays:
            await self.inner.load_adapter(path)

    def connection(self) -> Mapping[str, Any]:
        return {} if self._answers.replays else self.inner.connection()

    def connect(self, connection: Mapping[str, Any]) -> None:
        if not self._answers.replays:
            self.inner.connect(connection)


def _tokenizer(path: Path | None) -> Tokenizer:
    from transformers import AutoTokenizer

    made: Tokenizer = AutoTokenizer.from_pretrained(path)
    return made

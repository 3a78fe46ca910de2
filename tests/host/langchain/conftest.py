"""A backend of token ids that answers what it is asked, so that many calls may be under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from grpo_sdk import Backend, Capability, ModelSpec, Sampling, TokenReply
from grpo_sdk.backend import TRAINABLE

Script = Callable[[str], str]
"""From the prompt's text to the text of the answer."""


class ScriptedTokens(Backend):
    """Samples what ``script`` says to the prompt, and keeps all that it sampled."""

    capabilities = TRAINABLE | {Capability.SEED}

    def __init__(self, tokenizer: Any, script: Script) -> None:
        super().__init__(ModelSpec("scripted-tokens", context=20_000))
        self._tokenizer = tokenizer
        self.script = script
        self.sampled: list[tuple[str, str]] = []
        self.sampling: list[Sampling] = []
        self.log: list[tuple[list[int], list[int]]] = []
        """The ids of each prompt, and of its answer as far as it was given: kept apart from any recorder."""
        self.pause: int | None = None
        """After so many ids a stream waits, so that it can be left half-way."""

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        await asyncio.sleep(0)
        ids = self._sample(prompt, sampling)
        self.log.append((list(prompt), ids))
        return self._reply(ids, sampling)

    async def stream_ids(
        self, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncIterator[list[int] | TokenReply]:
        prompt = list(prompt)  # whoever asks goes on with its own
        ids = self._sample(prompt, sampling)
        given = 0
        try:
            for token in ids:
                await asyncio.sleep(60 if given == self.pause else 0)
                given += 1
                yield [token]
        finally:
            self.log.append((prompt, ids[:given]))
        yield self._reply(ids, sampling)

    def _sample(self, prompt: Sequence[int], sampling: Sampling) -> list[int]:
        heard = self._tokenizer.decode(prompt)
        said = self.script(heard)
        self.sampled.append((heard, said))
        self.sampling.append(sampling)
        ids = [*self._tokenizer.encode(said, add_special_tokens=False), self._tokenizer.eos_token_id]
        return ids[: sampling.max_tokens]

    def _reply(self, ids: list[int], sampling: Sampling) -> TokenReply:
        finish = "stop" if ids[-1] in sampling.stop_token_ids else "length"
        return TokenReply(ids, [-0.5] * len(ids), finish)


@pytest.fixture
def tokens(fakes: Any) -> Callable[[Script], ScriptedTokens]:
    """``tokens(script)`` makes a backend of token ids."""
    return lambda script: ScriptedTokens(fakes.PieceTokenizer(), script)


@pytest.fixture
def benchmark() -> Any:
    """Times nothing: the plugin that does is off here."""
    return lambda function: function()


@pytest.fixture
def vcr() -> None:
    """Records nothing: no backend here is behind HTTP."""

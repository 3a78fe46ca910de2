"""A tiny backend of token ids that really samples: for tests of what needs exact tokens, without torch."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from random import Random, SystemRandom
from typing import Any, ClassVar

from grpo_sdk.backend import Backend, Capability, FinishReason, ModelSpec, Sampling, TokenReply
from grpo_sdk.errors import ContextOverflowError

START, END = "<|im_start|>", "<|im_end|>"
_SPECIAL = (START, END)
_BYTES = len(_SPECIAL)
"""The id of the byte 0; the others follow."""
_SAMPLED = (1, *(_BYTES + byte for byte in b"abcdefghijklmnopqrstuvwxyz .,0123456789"))
"""What is sampled: the end, and bytes that are text by themselves."""


class ByteTokenizer:
    """A token a byte of UTF-8, and the two special tokens of the chat template."""

    chat_template = "chatml"
    eos_token_id: int | None = 1
    all_special_tokens: ClassVar[list[str]] = list(_SPECIAL)
    split_special_tokens = False
    """As transformers has it: whether texts of special tokens are read as plain text."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of ``text``."""
        parts = (
            [text] if self.split_special_tokens else re.split(f"({'|'.join(map(re.escape, _SPECIAL))})", text)
        )
        ids: list[int] = []
        for part in parts:
            ids += (
                [_SPECIAL.index(part)]
                if part in _SPECIAL and not self.split_special_tokens
                else [_BYTES + byte for byte in part.encode("utf-8", "surrogatepass")]
            )
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ``token_ids``."""
        special = [b"" if skip_special_tokens else text.encode() for text in _SPECIAL]
        parts = [special[i] if i < _BYTES else bytes([i - _BYTES]) for i in token_ids]
        return b"".join(parts).decode("utf-8", "replace")

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> str:
        """The text of ``conversation``, in the form that many models share."""
        said = "".join(f"{START}{item['role']}\n{item['content']}{END}\n" for item in conversation)
        return said + (f"{START}assistant\n" if kwargs.get("add_generation_prompt") else "")


class TokenBackend(Backend):
    """Samples letters from a distribution that hangs on the two ids before; what it says has no sense.

    It honours temperature, top_p, top_k, seeds, limits and what ends an answer, and gives each id's log-prob.
    """

    capabilities = frozenset({Capability.TOKEN_IDS, Capability.LOGPROBS, Capability.SEED})

    def __init__(self, model: ModelSpec | None = None) -> None:
        super().__init__(model or ModelSpec("tiny"))
        self._tokenizer = ByteTokenizer()

    @property
    def tokenizer(self) -> ByteTokenizer:
        return self._tokenizer

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        room = self.model.context - len(prompt)
        if room < 1:
            raise ContextOverflowError(
                f"the prompt has {len(prompt)} tokens, and the context {self.model.context}"
            )
        draws = SystemRandom() if sampling.seed is None else Random(sampling.seed)
        ids, logprobs = list(prompt), list[float]()
        ends = {1, *sampling.stop_token_ids}
        while len(logprobs) < min(room, sampling.max_tokens):
            await asyncio.sleep(0)
            chosen, logprob = _sampled(ids[-2:], sampling, draws)
            ids.append(chosen)
            logprobs.append(logprob)
            said = self._tokenizer.decode(ids[len(prompt) :])
            if chosen in ends or any(said.endswith(text) for text in sampling.stop):
                return TokenReply(ids[len(prompt) :], logprobs, FinishReason.STOP)
        return TokenReply(ids[len(prompt) :], logprobs, FinishReason.LENGTH)


def _sampled(before: Sequence[int], sampling: Sampling, draws: Random) -> tuple[int, float]:
    """The next id and its log-probability."""
    of_ids = Random(f"{before}")
    logits = {token: 3.0 * of_ids.random() for token in _SAMPLED}
    order = sorted(logits, key=lambda token: -logits[token])
    if sampling.temperature == 0:
        return order[0], _logprob(order[0], list(logits.values()), logits, 1.0)
    kept = order[: sampling.top_k or None]
    largest = logits[order[0]]
    weights = [math.exp((logits[token] - largest) / sampling.temperature) for token in kept]
    if sampling.top_p < 1:
        total, share, number = sum(weights), 0.0, 0
        while share < sampling.top_p * total:
            share += weights[number]
            number += 1
        kept, weights = kept[:number], weights[:number]
    [chosen] = draws.choices(kept, weights)
    return chosen, _logprob(chosen, [logits[token] for token in kept], logits, sampling.temperature)


def _logprob(token: int, among: Sequence[float], logits: dict[int, float], temperature: float) -> float:
    largest = max(among)
    total = sum(math.exp((logit - largest) / temperature) for logit in among)
    return (logits[token] - largest) / temperature - math.log(total)

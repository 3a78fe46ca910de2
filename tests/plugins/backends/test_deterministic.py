"""What a request gives hangs on nothing but itself, on a random Llama of two layers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from grpo_backends.transformers_engine import TransformersBackend
from grpo_sdk import ModelSpec, Sampling, TokenReply

pytestmark = pytest.mark.model

PROMPTS = [list(range(5, 5 + length)) for length in (40, 3, 17, 29, 8, 31, 2)]


def replies(path: Path, running: Any, **options: Any) -> tuple[list[TokenReply], list[TokenReply]]:
    """Those of each of ``PROMPTS`` alone, and of all at once, in another order."""

    async def at_once(backend: TransformersBackend) -> list[TokenReply]:
        order = list(enumerate(PROMPTS))[::-1]
        return (await asyncio.gather(*(sample(backend, *item) for item in order)))[::-1]

    async def sample(backend: TransformersBackend, seed: int, prompt: list[int]) -> TokenReply:
        return await backend.generate(prompt, Sampling(max_tokens=24, seed=seed))

    model = ModelSpec("tiny", path=path, context=128, dtype="float32")
    with running(TransformersBackend(model, window=0.2, **options)) as started:
        alone = [started.run(sample(started.backend, *item)) for item in enumerate(PROMPTS)]
        return alone, started.run(at_once(started.backend))


def test_with_deterministic_a_request_is_the_same_alone_and_beside_others(
    tiny_model_path: Path, running: Any
) -> None:
    alone, beside = replies(tiny_model_path, running, deterministic=True)
    assert [(reply.ids, reply.logprobs) for reply in alone] == [(r.ids, r.logprobs) for r in beside]


def test_without_it_rounding_hangs_on_what_it_shares_a_batch_with(
    tiny_model_path: Path, running: Any
) -> None:
    """If this fails, the backend no longer needs the option."""
    alone, beside = replies(tiny_model_path, running)
    assert [reply.logprobs for reply in alone] != [reply.logprobs for reply in beside]

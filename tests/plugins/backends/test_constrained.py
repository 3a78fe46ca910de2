"""Constrained decoding in the backends ``vllm`` and ``transformers``, on a tiny random model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from grpo_backends.transformers_engine import TransformersBackend
from grpo_sdk import Backend, ModelSpec, Sampling
from grpo_sdk.backend import Capability
from grpo_sdk.errors import CapabilityError
from grpo_sdk.grammar import Grammars, unpacked
from grpo_sdk.testing import BackendContract

pytestmark = pytest.mark.model

SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "maxLength": 6}, "level": {"enum": ["low", "urgent"]}},
    "required": ["word", "level"],
}
GRAMMAR = json.dumps(
    {
        "type": "structural_tag",
        "format": {"type": "json_schema", "json_schema": SCHEMA, "max_whitespace_cnt": 1},
    }
)


class TestTransformers(BackendContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _model(cls, tiny_model_path) -> None:
        cls.path = tiny_model_path

    def make(self) -> Backend:
        return TransformersBackend(ModelSpec("tiny", path=self.path, context=256, dtype="float32"))


@pytest.fixture(scope="module")
def transformers_backend(tiny_model_path, running) -> Iterator[Any]:
    model = ModelSpec("tiny", path=tiny_model_path, dtype="float32", context=256)
    with running(TransformersBackend(model)) as backend:
        yield backend


@pytest.fixture(scope="module")
def vllm_tiny(tiny_model_path, running) -> Iterator[Any]:
    pytest.importorskip("vllm")
    from grpo_backends.vllm_engine import VllmBackend

    model = ModelSpec("tiny", path=tiny_model_path, dtype="float32", context=256)
    with running(VllmBackend(model, kv_cache_gib=0.1)) as backend:
        yield backend


@pytest.fixture(params=[pytest.param("vllm_tiny", marks=pytest.mark.vllm), "transformers_backend"])
def engine(request) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def masked_logprobs(tiny_model_path):
    """Log-probs of an answer in what its grammar leaves, by a plain forward and a softmax over the allowed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    grammars = Grammars(AutoTokenizer.from_pretrained(tiny_model_path), model.config.vocab_size)

    def logprobs(prompt, ids, temperature):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / temperature
        allowed = unpacked(grammars.allowed(ids, GRAMMAR, STOPS), logits.size(1))
        scores = logits.double().exp() * allowed
        return (
            (scores / scores.sum(-1, keepdim=True)).log().gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()
        )

    return logprobs


STOPS = (0, 2)
PROMPT = [504, 3575, 282, 4649, 314]


def sampled(engine, *, count=1, **said):
    import asyncio

    async def all_at_once():
        calls = (
            engine.backend.generate(PROMPT, Sampling(seed=seed, max_tokens=60, stop_token_ids=STOPS, **said))
            for seed in range(count)
        )
        return await asyncio.gather(*calls)

    return engine.run(all_at_once())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_what_the_grammar_leaves(engine, masked_logprobs, temperature):
    for reply in sampled(engine, count=4, grammar=GRAMMAR, temperature=temperature):
        expected = masked_logprobs(PROMPT, reply.ids, temperature)
        assert reply.finish_reason == "stop"
        assert reply.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_greedy_answer_keeps_to_its_grammar_too(engine, masked_logprobs):
    [reply] = sampled(engine, grammar=GRAMMAR, temperature=0.0)
    assert len(reply.ids) > 5
    assert reply.logprobs == pytest.approx(masked_logprobs(PROMPT, reply.ids, 1.0), abs=1e-4)


def test_requests_with_and_without_a_grammar_share_a_batch(engine):
    import asyncio

    free = Sampling(seed=1, max_tokens=12, stop_token_ids=STOPS)

    async def ask(*samplings):
        return await asyncio.gather(*(engine.backend.generate(PROMPT, each) for each in samplings))

    [alone] = engine.run(ask(free))
    beside, kept = engine.run(ask(free, replace(free, max_tokens=60, grammar=GRAMMAR)))
    assert beside.ids == alone.ids
    said = json.loads(engine.backend.tokenizer.decode(kept.ids, skip_special_tokens=True))
    assert said.keys() == {"word", "level"}


def test_max_tokens_cuts_an_answer_within_its_grammar(engine):
    [reply] = engine.run(_one(engine, Sampling(seed=1, max_tokens=3, grammar=GRAMMAR, stop_token_ids=STOPS)))
    assert (len(reply.ids), reply.finish_reason) == (3, "length")


async def _one(engine, sampling):
    return [await engine.backend.generate(PROMPT, sampling)]


@pytest.mark.parametrize("grammar", ["no grammar", GRAMMAR.replace('"string"', '"strong"')])
def test_a_grammar_that_cannot_be_enforced_is_refused_whole_and_as_a_stream(engine, grammar):
    async def streamed():
        return [item async for item in engine.backend.stream_ids(PROMPT, Sampling(grammar=grammar))]

    for call in (_one(engine, Sampling(grammar=grammar)), streamed()):
        with pytest.raises(CapabilityError, match="the grammar cannot be enforced"):
            engine.run(call)


def test_it_says_that_it_constrains(engine):
    assert Capability.STRUCTURED in engine.backend.capabilities

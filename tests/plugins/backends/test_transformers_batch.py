"""The transformers engine's batch: requests join it, leave it, and compute what is new alone."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from grpo_sdk import ModelError, Sampling

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402 - needs torch

from grpo_backends import transformers_cache  # noqa: E402
from grpo_backends.transformers_batch import BatchEngine, Row  # noqa: E402
from grpo_backends.transformers_cache import Prefixes  # noqa: E402

pytestmark = pytest.mark.model

GREEDY = Sampling(max_tokens=6, temperature=0, seed=0)


class Counted(LlamaForCausalLM):  # type: ignore[misc]
    """Counts the ids that pass through it, padding included."""

    passed = 0

    def forward(self, input_ids: Any = None, **options: Any) -> Any:
        self.passed += input_ids.numel()
        return super().forward(input_ids=input_ids, **options)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
    )
    return Counted(config).eval()


def engine_of(model: Any, **options: Any) -> BatchEngine:
    settings = {"end_ids": {63}, "max_batch": 8, "window": 0.0, "prefix_cache": 0.1, **options}
    tokenizer: Any = SimpleNamespace(decode=str)
    return BatchEngine(model, tokenizer, **settings)


def finished(engine: BatchEngine) -> dict[str, Row]:
    """Step until nothing is left; the rows by their requests."""
    rows = {}
    while engine.has_unfinished_requests():
        rows.update({row.request_id: row for row in engine.step() if row.finished})
    return rows


def alone(model: Any, prompt: list[int], sampling: Sampling = GREEDY) -> Row:
    engine = engine_of(model, prefix_cache=0)
    engine.add_request("alone", prompt, sampling)
    return finished(engine)["alone"]


def assert_alike(row: Row, other: Row) -> None:
    assert row.ids == other.ids
    assert row.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def passes_of(model: Any, engine: BatchEngine, prompt: list[int]) -> int:
    """How many ids of ``prompt`` pass through the model."""
    before = model.passed
    engine.add_request("next", prompt, Sampling(max_tokens=1, temperature=0, seed=0))
    finished(engine)
    return int(model.passed - before)


def test_requests_that_join_a_batch_are_answered_as_alone(model: Any) -> None:
    engine = engine_of(model, prefix_cache=0)
    prompts = [[5, 6, 7, 8, 9], [9, 8], [7] * 12, [1, 2, 3]]
    rows = {}
    for number, prompt in enumerate(prompts):
        engine.add_request(str(number), prompt, GREEDY)
        rows.update({row.request_id: row for row in engine.step() if row.finished})
        rows.update({row.request_id: row for row in engine.step() if row.finished})
    rows.update(finished(engine))
    for number, prompt in enumerate(prompts):
        assert_alike(rows[str(number)], alone(model, prompt))


def test_those_that_stay_are_answered_as_alone_when_others_leave(model: Any) -> None:
    engine = engine_of(model)
    lengths = {"a": 2, "b": 9, "c": 1, "d": 5}
    for name, length in lengths.items():
        engine.add_request(name, [ord(name) - 90, 4, 5], Sampling(max_tokens=length, temperature=0, seed=0))
    rows = {row.request_id: row for row in engine.step() if row.finished}
    engine.abort_request(["d"])
    rows.update(finished(engine))
    for name in "abc":
        sampling = Sampling(max_tokens=lengths[name], temperature=0, seed=0)
        assert_alike(rows[name], alone(model, [ord(name) - 90, 4, 5], sampling))
    assert "d" not in rows


def test_what_memory_held_before_changes_no_answer(model: Any, monkeypatch: Any) -> None:
    def room(*args: Any) -> Any:
        return clean(*args).fill_(torch.nan)

    clean = transformers_cache._room
    monkeypatch.setattr(transformers_cache, "_room", room)
    engine = engine_of(model)
    known, unknown, longer = [5, 6, 7, 8, 9], [1, 2, 3], [5, 6, 7, 8, 9, 10, 11]
    engine.add_request("known", known, GREEDY)
    rows = finished(engine)
    for name, prompt in (("longer", longer), ("unknown", unknown)):
        engine.add_request(name, prompt, GREEDY)  # one begins with what is held, one does not
    rows |= finished(engine)
    for name, prompt in (("known", known), ("longer", longer), ("unknown", unknown)):
        assert_alike(rows[name], alone(model, prompt))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_are_no_numbers_are_told_from_a_fault_of_the_engine(
    model: Any, temperature: float
) -> None:
    spoilt = copy.deepcopy(model)
    spoilt.model.norm.weight.data[0] = torch.nan
    engine = engine_of(spoilt)
    engine.add_request("a", [5, 6], Sampling(max_tokens=2, temperature=temperature, seed=0))
    with pytest.raises(
        ModelError, match=r"probabilities are not numbers \(NaN\): its weights are not finite"
    ):
        engine.step()


def test_the_next_turn_computes_its_new_tokens_alone(model: Any) -> None:
    engine = engine_of(model)
    engine.add_request("first", [5, 6, 7, 8], GREEDY)
    first = finished(engine)["first"]
    longer = [5, 6, 7, 8, *first.ids, 10, 11]
    before = model.passed
    engine.add_request("second", longer, GREEDY)
    second = finished(engine)["second"]
    # The last sampled id, which was never put into the model, the two new ones, and five decoding steps.
    assert model.passed - before == 3 + 5
    assert_alike(second, alone(model, longer))


def test_the_beginning_that_requests_share_is_computed_once(model: Any) -> None:
    engine = engine_of(model)
    assert passes_of(model, engine, [1, 2, 3, 4, 5, 6]) == 6
    assert passes_of(model, engine, [1, 2, 3, 4, 9, 9]) == 2
    assert passes_of(model, engine, [1, 2, 3, 4, 5, 6]) == 1  # its last id is what the answer comes from
    assert passes_of(model, engine, [2, 2, 3]) == 3


def test_samples_of_one_prompt_compute_it_once(model: Any) -> None:
    engine = engine_of(model)
    before = model.passed
    for number in range(4):
        engine.add_request(str(number), [5, 6, 7, 8], Sampling(max_tokens=1, seed=number))
    rows = finished(engine)
    assert model.passed - before == 4
    for number in range(4):
        assert_alike(rows[str(number)], alone(model, [5, 6, 7, 8], Sampling(max_tokens=1, seed=number)))


def test_short_prompts_are_not_padded_to_a_long_one(model: Any) -> None:
    engine = engine_of(model, prefix_cache=0)
    before = model.passed
    for number in range(6):
        engine.add_request(str(number), [number, 3], Sampling(max_tokens=1, temperature=0, seed=0))
    engine.add_request("long", list(range(50)) * 4, Sampling(max_tokens=1, temperature=0, seed=0))
    finished(engine)
    assert model.passed - before == 6 * 2 + 200


def test_new_weights_leave_nothing_of_the_old_ones(model: Any) -> None:
    engine = engine_of(model)
    passes_of(model, engine, [1, 2, 3, 4])
    engine.forget()
    assert passes_of(model, engine, [1, 2, 3, 4, 5]) == 5


def test_a_few_that_wait_join_when_they_are_a_quarter_of_the_batch_or_have_waited_long(model: Any) -> None:
    engine = engine_of(model, max_batch=16)
    for number in range(8):
        engine.add_request(str(number), [number, 1, 2], Sampling(max_tokens=40, temperature=0.5, seed=0))
    engine.step()
    engine.add_request("one", [1, 2], GREEDY)
    assert "one" not in {row.request_id for row in engine.step()}
    engine.add_request("two", [1, 3], GREEDY)
    assert {"one", "two"} <= {row.request_id for row in engine.step()}


def test_a_full_batch_lets_nobody_join(model: Any) -> None:
    engine = engine_of(model, max_batch=2)
    for name in ("a", "b", "c"):
        engine.add_request(name, [5, 6], GREEDY)
    assert {row.request_id for row in engine.step()} == {"a", "b"}
    assert_alike(finished(engine)["c"], alone(model, [5, 6]))


def test_the_memory_for_prefixes_is_bounded_and_the_oldest_goes_first() -> None:
    def states(tokens: int) -> Any:
        return lambda: [(torch.zeros(1, tokens, 8), torch.zeros(1, tokens, 8))]  # 64 bytes a token

    prefixes = Prefixes(20 * 64 / 2**30)
    prefixes.add([1, 2, 3, 4, 5, 6, 7, 8], states(8))
    prefixes.add([2] * 8, states(8))
    assert prefixes.longest([1, 2, 3, 9]) is not None  # used last
    prefixes.add([3] * 8, states(8))
    assert prefixes.longest([2] * 8) is None
    found = prefixes.longest([1, 2, 3, 4, 9])
    assert found is not None
    assert found[1] == 4
    prefixes.add([4] * 30, states(30))
    assert prefixes.longest([4] * 30) is None


def test_a_longer_sequence_takes_the_place_of_its_beginning() -> None:
    prefixes = Prefixes(20 * 64 / 2**30)
    for length in range(1, 12):
        prefixes.add([1] * length, lambda n=length: [(torch.zeros(1, n, 8), torch.zeros(1, n, 8))])  # type: ignore[misc]
    prefixes.add([2] * 8, lambda: [(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8))])
    found = prefixes.longest([1] * 12)
    assert found is not None
    assert found[1] == 11

"""What the backends ``vllm`` and ``transformers`` have in common, with the embedded model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_backends.transformers_engine import TransformersBackend
from grpo_sdk import ContextOverflowError, ModelError, ModelSpec, Sampling, TokenReply
from grpo_sdk.backend import TRAINABLE
from grpo_sdk.errors import RunError

pytestmark = [pytest.mark.model, pytest.mark.slow]

TOLERANCE = {"vllm": 0.45, "transformers": 0.002}
"""Largest difference in nats from a float32 forward: vLLM's model is in bfloat16, the other in float32."""


@pytest.fixture(scope="module")
def transformers_backend(model_path: Path, running: Any) -> Iterator[Any]:
    model = ModelSpec("smollm2-135m", path=model_path, context=1024, dtype="float32")
    with running(TransformersBackend(model)) as backend:
        yield backend


@pytest.fixture(params=[pytest.param("vllm", marks=pytest.mark.vllm), pytest.param("transformers")])
def engine(request: pytest.FixtureRequest) -> Any:
    """A started backend: ``backend`` and ``run``."""
    return request.getfixturevalue(f"{request.param}_backend")


def kind(engine: Any) -> str:
    return "vllm" if type(engine.backend).__name__ == "VllmBackend" else "transformers"


def prompt(engine: Any, text: str) -> list[int]:
    ids: list[int] = engine.backend.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )
    return ids


def sample(engine: Any, ids: list[int], **sampling: Any) -> TokenReply:
    sampling.setdefault("max_tokens", 16)
    reply: TokenReply = engine.run(engine.backend.generate(ids, Sampling(**sampling)))
    return reply


QUESTION = "What is the capital of France?"
OPEN = "Tell me a story that nobody has told before."
"""So many answers are likely that two samples of it are never the same by chance."""


def test_it_can_be_trained(engine) -> None:
    assert engine.backend.capabilities >= TRAINABLE


def test_greedy_sampling_repeats_itself_and_ends_with_the_end_token(engine) -> None:
    ids = prompt(engine, "What is 2 + 2? Answer in one word.")
    first, second = (sample(engine, ids, temperature=0, max_tokens=64) for _ in range(2))
    assert first.ids == second.ids
    assert first.finish_reason == "stop"
    assert first.ids[-1] == engine.backend.tokenizer.eos_token_id


def test_a_seed_repeats_a_sample_and_another_seed_does_not(engine) -> None:
    ids = prompt(engine, OPEN)
    sample(engine, ids)  # a cached prefix rounds otherwise in bfloat16: let all three find it
    samples = [sample(engine, ids, seed=seed).ids for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]


def test_samples_without_a_seed_differ(engine) -> None:
    ids = prompt(engine, OPEN)
    assert sample(engine, ids).ids != sample(engine, ids).ids


def test_max_tokens_ends_a_sample_with_one_logprob_an_id(engine) -> None:
    reply = sample(engine, prompt(engine, "Count to one hundred."), max_tokens=7, seed=1)
    assert (len(reply.ids), len(reply.logprobs), reply.finish_reason) == (7, 7, "length")
    assert all(logprob <= 0 for logprob in reply.logprobs)


def test_a_stop_token_ends_a_sample_and_is_part_of_it(engine) -> None:
    ids = prompt(engine, QUESTION)
    whole = sample(engine, ids, seed=3)
    stopped = sample(engine, ids, seed=3, stop_token_ids=(whole.ids[4],))
    end = whole.ids.index(whole.ids[4]) + 1
    assert stopped.ids == whole.ids[:end]
    assert (len(stopped.logprobs), stopped.finish_reason) == (end, "stop")


def streamed(engine: Any, ids: list[int], **sampling: Any) -> list[Any]:
    async def gather() -> list[Any]:
        return [item async for item in engine.backend.stream_ids(ids, Sampling(**sampling))]

    items: list[Any] = engine.run(gather())
    return items


def test_a_stream_gives_the_ids_as_they_are_sampled_and_then_the_same_reply(engine) -> None:
    ids = prompt(engine, "What is 2 + 2? Answer in one word.")
    sample(engine, ids, max_tokens=1)  # a cached prefix rounds otherwise: let both find it
    *pieces, reply = streamed(engine, ids, temperature=0, max_tokens=24)
    assert [id for piece in pieces for id in piece] == reply.ids
    assert len(pieces) > 1
    assert reply == sample(engine, ids, temperature=0, max_tokens=24)


def test_a_stop_text_ends_a_sample_with_all_its_ids(engine) -> None:
    ids = prompt(engine, QUESTION)
    whole = sample(engine, ids, seed=3)
    word = engine.backend.tokenizer.decode(whole.ids[3:5])
    stopped = sample(engine, ids, seed=3, stop=(word,))
    assert stopped.ids == whole.ids[: len(stopped.ids)]
    assert word in engine.backend.tokenizer.decode(stopped.ids)
    assert (len(stopped.logprobs), stopped.finish_reason) == (len(stopped.ids), "stop")


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.7}, {"top_k": 20}, {"top_p": 0.8}, {"temperature": 0}]
)
def test_logprobs_are_those_of_a_plain_forward(engine, sampling, plain_model) -> None:
    ids = prompt(engine, "Tell me about the sea.")
    reply = sample(engine, ids, seed=5, max_tokens=32, **sampling)
    expected = plain_model(ids, reply.ids, Sampling(**sampling))
    differences = [abs(a - b) for a, b in zip(reply.logprobs, expected, strict=True)]
    tolerance = TOLERANCE[kind(engine)]
    # A filter's edge moves with rounding, so that an id at the edge may be outside in float32.
    assert sorted(differences)[len(differences) * 3 // 4] < tolerance
    if not sampling.keys() & {"top_k", "top_p"}:
        assert max(differences) < tolerance


@pytest.fixture(scope="module")
def plain_model(model_path: Path) -> Any:
    """Logprobs of given ids by a float32 forward, written out separately from the backends."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)

    def logprobs(context: list[int], ids: list[int], sampling: Sampling) -> list[float]:
        with torch.inference_mode():
            logits = model(torch.tensor([context + ids])).logits[0, len(context) - 1 : -1]
        logits = logits / (sampling.temperature or 1.0)
        if sampling.top_k:
            least = logits.topk(sampling.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if sampling.top_p < 1:
            probs = logits.softmax(-1)
            values, order = probs.sort(descending=True)
            outside = values.cumsum(-1) - values >= sampling.top_p
            logits = logits.masked_fill(outside.gather(-1, order.argsort(-1)), -torch.inf)
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(ids).unsqueeze(1))
        result: list[float] = chosen.squeeze(1).tolist()
        return result

    return logprobs


def test_concurrent_requests_of_many_lengths_all_return(engine) -> None:
    async def many() -> list[TokenReply]:
        calls = [
            engine.backend.generate(
                prompt(engine, "Hello. " * (1 + i % 7)), Sampling(max_tokens=1 + i % 9, seed=i)
            )
            for i in range(32)
        ]
        return await asyncio.gather(*calls)

    replies = engine.run(many())
    assert [len(reply.ids) <= 1 + i % 9 for i, reply in enumerate(replies)] == [True] * 32
    assert all(len(reply.ids) == len(reply.logprobs) for reply in replies)


def test_many_seeded_prompts_at_once_do_not_stop_the_engine(engine) -> None:
    """More prompt tokens than vLLM takes in one step: splitting a prompt would kill it on CPU."""
    prompts = [[300 + (row * 131 + place * 17) % 5000 for place in range(130)] for row in range(18)]

    async def all_at_once() -> list[TokenReply]:
        calls = (
            engine.backend.generate(ids, Sampling(max_tokens=2, seed=row)) for row, ids in enumerate(prompts)
        )
        return list(await asyncio.gather(*calls))

    assert [len(reply.ids) for reply in engine.run(all_at_once())] == [2] * len(prompts)


def test_a_cancelled_request_leaves_the_engine_free(engine) -> None:
    async def cancel() -> float:
        ids = prompt(engine, "Write a very long story.")
        task = asyncio.create_task(engine.backend.generate(ids, Sampling(max_tokens=900, seed=1)))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        started = time.perf_counter()
        await engine.backend.generate(ids, Sampling(max_tokens=1, seed=1))
        return time.perf_counter() - started

    assert engine.run(cancel()) < 5


def test_a_prompt_that_fills_the_context_is_refused(engine) -> None:
    with pytest.raises(ContextOverflowError, match="1024 tokens and the context 1024"):
        sample(engine, [5] * 1024)


def test_a_sample_ends_where_the_context_does(engine) -> None:
    reply = sample(engine, [5] * 1020, max_tokens=50, seed=1)
    assert len(reply.ids) <= 4


def test_an_empty_prompt_is_refused(engine) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        sample(engine, [])


def weights(path: Path, scale: float = 1.0) -> list[tuple[str, Any]]:
    from safetensors.torch import load_file

    loaded = load_file(path / "model.safetensors")
    return [(n, t * scale if "down_proj" in n else t) for n, t in loaded.items()]


def test_new_weights_change_what_is_said_and_the_old_ones_restore_it(engine, model_path) -> None:
    ids = prompt(engine, QUESTION)
    update = engine.backend.update_weights
    engine.run(update(weights(model_path), version=1))
    before = sample(engine, ids, temperature=0)
    engine.run(update(weights(model_path, 0.5), version=2))
    during = sample(engine, ids, temperature=0)
    engine.run(update(weights(model_path), version=3))
    after = sample(engine, ids, temperature=0)
    assert during.ids != before.ids
    assert after == before


def test_weights_cannot_change_under_a_request(engine, model_path) -> None:
    async def both() -> None:
        ids = prompt(engine, QUESTION)
        task = asyncio.create_task(engine.backend.generate(ids, Sampling(max_tokens=64, seed=1)))
        await asyncio.sleep(0)
        try:
            await engine.backend.update_weights(weights(model_path), version=1)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with pytest.raises(RunError, match="1 requests are under way"):
        engine.run(both())


def test_an_adapter_is_served_as_peft_computes_it(engine, model_path, adapter_path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = prompt(engine, QUESTION)
    engine.run(engine.backend.load_adapter(adapter_path))
    reply = sample(engine, ids, temperature=0, max_tokens=1)
    engine.run(engine.backend.update_weights(weights(model_path), version=4))
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, adapter_path).eval()
    with torch.inference_mode():
        expected = adapted(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    assert abs(expected[reply.ids[0]].item() - reply.logprobs[0]) < TOLERANCE[kind(engine)]
    without = sample(engine, ids, temperature=0, max_tokens=1)
    assert abs(without.logprobs[0] - reply.logprobs[0]) > 0.1


@pytest.fixture(scope="module")
def adapter_path(heavy: None, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter whose effect shows."""
    pytest.importorskip("peft")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16)
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    path = tmp_path_factory.mktemp("adapter")
    get_peft_model(base, config).save_pretrained(path)
    return path


def test_a_directory_without_an_adapter_is_refused(engine, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        engine.run(engine.backend.load_adapter(tmp_path))


@pytest.mark.vllm
def test_vllm_refuses_to_go_on_with_half_of_its_weights(vllm_backend, model_path) -> None:
    whole = weights(model_path)
    backend, run = vllm_backend.backend, vllm_backend.run
    with pytest.raises(RunError, match="left out"):
        run(backend.update_weights(whole[:5], version=1))
    with pytest.raises(RunError, match="send all of them again"):
        run(backend.generate([1, 2, 3], Sampling()))
    run(backend.update_weights(whole, version=2))
    assert run(backend.generate([1, 2, 3], Sampling(max_tokens=1))).ids


@pytest.mark.vllm
def test_vllm_leaves_torch_its_threads(vllm_backend) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)

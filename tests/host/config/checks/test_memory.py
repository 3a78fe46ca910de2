"""The memory of a training is estimated from a config.json; nothing heavy is loaded for it."""

from __future__ import annotations

import json

import pytest

from grpo_host.checks import memory
from grpo_host.checks.memory import Decoder, check_memory, estimate_memory
from grpo_host.config.schema import AgentConfig, LoraConfig

SMOLLM = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
QWEN_7B = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}


@pytest.fixture
def estimate(tmp_path, monkeypatch):
    """Estimates a training of the model with this config.json."""
    monkeypatch.setattr(memory, "memory_gib", lambda: (32 * 10**9 / 2**30, 16.0))
    monkeypatch.setattr(memory, "gpu_device", lambda: None)

    def of(config, *, context=1024, **training):
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        return estimate_memory(
            AgentConfig.model_validate(
                {
                    "name": "desk",
                    "model": {"name": str(tmp_path), "dtype": "bfloat16", "context": context},
                    "backend": "vllm",
                    "environment": "arithmetic",
                    "rewards": ["task_success"],
                    "training": training,
                }
            )
        )

    return of


@pytest.mark.parametrize(("config", "weights"), [(SMOLLM, 134.5e6), (QWEN_7B, 7.616e9)])
def test_weights_are_counted_as_the_models_cards_say(config, weights):
    assert Decoder.of(config).weights == pytest.approx(weights, rel=0.001)


@pytest.mark.parametrize(("modules", "weights"), [("all-linear", 4884480), (["q_proj", "v_proj"], 921600)])
def test_an_adapter_is_counted_as_peft_makes_it(modules, weights):
    assert Decoder.of(SMOLLM).adapter(LoraConfig(target_modules=modules)) == weights


@pytest.mark.parametrize(
    ("changed", "size", "counted"),
    [
        ({}, 4, 43148),
        ({}, 2, 25148),
        ({"intermediate_size": 3072}, 4, 69260),
        ({"intermediate_size": 3072}, 2, 38588),
        ({"num_key_value_heads": 9}, 4, 46604),
        ({"hidden_size": 288}, 2, 21188),
    ],
)
def test_what_a_layer_keeps_of_a_token_is_what_autograd_was_seen_to_save(changed, size, counted):
    """Counted by saved_tensors_hooks, with torch 2.13 and transformers 5.17, of 128 tokens in 4 layers."""
    decoder = Decoder.of({**SMOLLM, **changed, "num_hidden_layers": 1})
    assert decoder.kept(size, checkpointing=False) == pytest.approx(counted, rel=0.08)


def test_gradient_checkpointing_keeps_the_inputs_of_layers_and_one_layer():
    decoder = Decoder.of(SMOLLM)
    one = Decoder.of({**SMOLLM, "num_hidden_layers": 1}).kept(4, checkpointing=False)
    assert decoder.kept(4, checkpointing=True) == one + 30 * 576 * 4


def test_the_whole_model_takes_gradients_moments_and_a_reference(estimate):
    weights = Decoder.of(SMOLLM).weights
    found = estimate(SMOLLM, lora=None, beta=0.1)
    assert (found.trainer, found.optimizer, found.engine) == (8 * weights, 12 * weights, 2 * weights)


def test_processes_that_share_the_model_hold_their_part_of_it(estimate):
    alone = estimate(QWEN_7B, lora=None)
    shared = estimate(QWEN_7B, lora=None, world_size=4, accelerate="fsdp.yaml")
    assert (shared.trainer, shared.optimizer) == (alone.trainer // 4, alone.optimizer // 4)
    assert (shared.engine, shared.activations) == (alone.engine, alone.activations)
    assert str(shared).startswith(
        "about 45.7 GB in each process (weights 7.6, optimizer 22.8, engine 15.2), "
    )
    assert " in each process" not in str(alone)


@pytest.mark.parametrize(("load_in", "gigabytes"), [(None, 15.2), ("8bit", 8.7), ("4bit", 5.8)])
def test_base_weights_of_few_bits_take_less_but_for_embeddings_and_head(estimate, load_in, gigabytes):
    found = estimate(QWEN_7B, load_in=load_in)
    assert found.trainer / 1e9 == pytest.approx(gigabytes, abs=0.1)
    assert found.engine / 1e9 == pytest.approx(15.2, abs=0.1)


def test_a_pass_is_as_long_as_its_rows_or_max_tokens_allow(estimate):
    assert estimate(SMOLLM, micro_batch=4).tokens == 4096
    assert estimate(SMOLLM, micro_batch=4, max_tokens=2048).tokens == 2048
    assert estimate(SMOLLM, micro_batch=4, max_tokens=100).tokens == 1024


@pytest.mark.parametrize("config", [{**QWEN_7B, "num_experts": 8}, {"hidden_size": 576}, "{", "[]"])
def test_a_model_of_another_kind_is_not_estimated(estimate, config):
    assert estimate(config) is None
    assert list(check_memory(None)) == []


def test_a_training_that_cannot_fit_is_warned_of(estimate):
    assert list(check_memory(estimate(QWEN_7B))) == []
    (said,) = check_memory(estimate(QWEN_7B, lora=None))
    assert said == (
        "weights, gradients and optimizer take about 137.1 GB, and this machine has 32.0 GB. Take a smaller "
        "model, or train an adapter (training.lora)"
    )


def test_of_a_gpu_nothing_is_said(estimate, monkeypatch):
    monkeypatch.setattr(memory, "gpu_device", lambda: "/dev/nvidiactl")
    assert list(check_memory(estimate(QWEN_7B, lora=None))) == []


def test_it_says_what_the_memory_is_for(estimate):
    assert str(estimate(QWEN_7B, context=4096, max_tokens=8192, gradient_checkpointing=True)) == (
        "about 31.1 GB (weights 15.2, optimizer 0.6, engine 15.2), and at most 4.7 for a pass of 8,192 tokens "
        "and 7.5 for the engine's cache: an estimate"
    )

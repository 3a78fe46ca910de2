"""Estimate the memory of a training from the model's config.json alone: no weight is read, no torch imported.

What autograd keeps of a decoder layer was counted with torch's ``saved_tensors_hooks`` on layers of Llama's
kind of several widths, with the adapter's linear layers of ours, and is met within 8 %. Not counted: what
libraries take for themselves (PyTorch and CUDA: 1 to 2 GB), fragmentation, and what merging a layer's
adapter takes for a moment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_host.checks.machine_health import memory_gib
from grpo_host.models.precision import gpu_device, resolve_dtype
from grpo_host.models.resolve import directory_here

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig, LoraConfig

GB = 1e9
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STATES = {"adamw_torch_fused": 8, "adamw_torch": 8, "adamw_8bit": 2, "adafactor": 1, "sgd": 0}
"""Bytes that an optimizer keeps for each weight that is trained."""
_BITS = {"4bit": 4.5, "8bit": 8.0}
"""Of a weight, with the scales of blocks of 64."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class Decoder:
    """The widths of a decoder with gated MLPs, as Llama, Qwen, Mistral and Gemma are."""

    layers: int
    hidden: int
    queries: int
    """Heads times their width."""
    keys: int
    """Key-value heads times their width."""
    mlp: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Decoder | None:
        """From what a config.json holds; None for another kind, such as a mixture of experts."""
        text = config.get("text_config", config)
        try:
            hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
            width = int(text.get("head_dim") or hidden // heads)
            made = cls(
                layers=int(text["num_hidden_layers"]),
                hidden=hidden,
                queries=heads * width,
                keys=int(text.get("num_key_value_heads") or heads) * width,
                mlp=int(text["intermediate_size"]),
                vocabulary=int(text["vocab_size"]),
                tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
            return None
        return None if any(text.get(name) for name in _EXPERTS) else made

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The linear modules of a layer: inputs and outputs."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.mlp),
            "up_proj": (self.hidden, self.mlp),
            "down_proj": (self.mlp, self.hidden),
        }

    @property
    def weights(self) -> int:
        """All of them, without norms and biases."""
        layer = sum(inputs * outputs for inputs, outputs in self.linear.values())
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def held(self, size: int, load_in: str | None) -> int:
        """Bytes of all weights: of layers as ``load_in`` says, of embeddings and head with ``size`` bytes."""
        layers = self.layers * sum(inputs * outputs for inputs, outputs in self.linear.values())
        return int(layers * _BITS.get(load_in or "", 8 * size) / 8) + (self.weights - layers) * size

    def adapter(self, lora: LoraConfig) -> int:
        """Weights of the LoRA adapter."""
        wanted = self.linear if isinstance(lora.target_modules, str) else set(lora.target_modules)
        return self.layers * lora.r * sum(sum(self.linear[name]) for name in self.linear if name in wanted)

    def kept(self, size: int, *, checkpointing: bool) -> int:
        """Bytes that a token of a training pass keeps until the backward pass; ``size``: of a number."""
        norms = self.hidden * (8 + 2 * size)  # partly in float32
        layer = size * (4 * self.mlp + 3 * self.queries + 2 * self.keys) + norms
        return layer + self.layers * self.hidden * size if checkpointing else self.layers * layer

    def cached(self, size: int) -> int:
        """Bytes of a token in the engine's KV cache."""
        return 2 * self.layers * self.keys * size


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that a process of a training takes at most, by what they are for."""

    trainer: int
    """The weights that are trained or adapted, and a copy of them as reference where there is one; its share
    of them where processes share the model."""
    optimizer: int
    """Gradients and the optimizer's state; with LoRA, the adapter too."""
    activations: int
    """What a pass of ``tokens`` keeps for the backward pass, with the probabilities of its answers."""
    tokens: int
    """Of a micro-batch whose rows all fill the context."""
    engine: int
    """The weights that are sampled from."""
    cache: int
    """Keys and values of all episodes at once that fill the context. vLLM takes its own share instead:
    ``kv_cache_gib`` on CPU, ``gpu_memory_utilization`` of a GPU, weights included."""
    processes: int = 1
    """That share the model."""

    @property
    def needed(self) -> int:
        """What is taken whatever is played."""
        return self.trainer + self.optimizer + self.engine

    def __str__(self) -> str:
        fixed = {"weights": self.trainer, "optimizer": self.optimizer, "engine": self.engine}
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in fixed.items())
        where = " in each process" if self.processes > 1 else ""
        return (
            f"about {self.needed / GB:.1f} GB{where} ({parts}), and at most "
            f"{self.activations / GB:.1f} for a pass of {self.tokens:,} tokens and "
            f"{self.cache / GB:.1f} for the engine's cache: an estimate"
        )


def estimate_memory(config: AgentConfig) -> MemoryEstimate | None:
    """None if the model is not here, or is not of a kind that can be estimated."""
    directory = directory_here(config.model.name)
    decoder = _decoder(directory) if directory else None
    if decoder is None:
        return None
    training, context = config.training, config.model.context
    size = _BYTES[resolve_dtype(config.model.dtype)]
    tokens = training.micro_batch * context
    if training.max_tokens is not None:
        tokens = max(context, min(tokens, training.max_tokens))
    sampled = min(context, config.agent.limits.turns * config.sampling.max_tokens)
    logits = tokens * sampled // context * decoder.vocabulary * (2 * size + 4)
    if training.lora is None:
        held = decoder.weights * (4 if training.mixed_precision else size)
        trainer = held * (2 if training.beta > 0 else 1)
        trained, own = decoder.weights, 0
    else:
        trainer = decoder.held(size, training.load_in)
        trained, own = decoder.adapter(training.lora), 4
    processes = training.world_size if training.accelerate else 1
    return MemoryEstimate(
        trainer=trainer // processes,
        optimizer=trained * (own + 4 + _STATES[training.optimizer]) // processes,
        activations=tokens * decoder.kept(size, checkpointing=training.gradient_checkpointing) + logits,
        tokens=tokens,
        engine=decoder.weights * size,
        cache=config.rollouts.concurrency * context * decoder.cached(size),
        processes=processes,
    )


def _decoder(directory: Path) -> Decoder | None:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # which is a problem of its own
    return Decoder.of(config) if isinstance(config, dict) else None


def check_memory(estimate: MemoryEstimate | None) -> Iterator[str]:
    """Warn of a training that cannot fit into this machine; of a GPU's memory nothing is known here."""
    there = memory_gib()
    if estimate is None or there is None or gpu_device() or estimate.needed <= there[0] * 2**30:
        return
    yield (
        f"weights, gradients and optimizer take about {estimate.needed / GB:.1f} GB, and this machine has "
        f"{there[0] * 2**30 / GB:.1f} GB. Take a smaller model, or train an adapter (training.lora)"
    )

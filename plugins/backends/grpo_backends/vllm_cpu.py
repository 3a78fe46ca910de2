"""Make vLLM faster on CPU: do not compile its helpers, and draw one random number per sampled token."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from grpo_backends.sampling import invert

if TYPE_CHECKING:
    import torch


def skip_compiling() -> None:
    """Let vLLM's small helper functions run uncompiled. Call before its engine is imported.

    Compiling them takes half a minute at the first request and needs a C++ compiler.
    """
    from vllm.platforms import current_platform

    current_platform.simple_compile_backend = "eager"


def use_inverse_sampling(engine: Any, seed: int) -> None:
    """Replace the sampling step of ``engine``, which lives in this process, by ``sample``.

    ``seed`` is for requests that have none.

    vLLM draws an exponential variate for every token of the vocabulary twice; for 32 sequences
    of a 49,152-token vocabulary that is half of the time of a decode step on CPU.
    """
    try:
        engine.collective_rpc(lambda worker: _install(worker, seed))
    except AttributeError as problem:
        logging.getLogger(__name__).warning(
            "this vLLM keeps its sampler elsewhere (%s): sampling on CPU is correct but slower. "
            "Install the version that grpo-agent-framework[cpu] asks for",
            problem,
        )


def _install(worker: Any, seed: int) -> None:
    import torch

    # Not torch's own generator: training, in another thread, draws from that.
    unseeded = torch.Generator().manual_seed(seed)
    worker.model_runner.sampler.topk_topp_sampler.forward = partial(sample, unseeded)


def sample(
    unseeded: torch.Generator,
    logits: torch.Tensor,
    generators: dict[int, torch.Generator],
    k: torch.Tensor | None,
    p: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One id per row by inverting the cumulative distribution, and the processed log-probabilities.

    ``logits`` are float32 and already divided by the temperature. ``generators`` are those of the
    rows that have a seed; ``unseeded`` is for the others.
    """
    import torch
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    logprobs = apply_top_k_top_p(logits, k, p).log_softmax(dim=-1)
    uniform = torch.rand(len(logprobs), dtype=torch.float64, generator=unseeded)
    for row, generator in generators.items():
        uniform[row] = torch.rand((), dtype=torch.float64, generator=generator)
    return invert(logprobs, uniform), logprobs

"""Draw ids from logits, exactly from the distribution whose logprobs are reported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpo_sdk import Sampling

if TYPE_CHECKING:
    import torch


def processed_logprobs(logits: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Log-probabilities in float32 after temperature, top-k and top-p; one of ``samplings`` per row.

    A greedy row has those of temperature 1, unfiltered.
    """
    import torch

    temperature = [s.temperature if s.temperature > 0 else 1.0 for s in samplings]
    logits = logits.float() / torch.tensor(temperature, device=logits.device).unsqueeze(1)
    for row, sampling in enumerate(samplings):
        if sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1):
            logits[row] = _filtered(logits[row], sampling)
    return logits.log_softmax(dim=-1)


def _filtered(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """``logits`` of one row, -inf outside the top k and the top-p nucleus of what is left."""
    import torch

    ordered, order = logits.sort(descending=True)
    if sampling.top_k > 0:
        ordered[sampling.top_k :] = -torch.inf
    if sampling.top_p < 1:
        before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1)
        before[0] = 0.0  # the likeliest id always stays
        ordered[before >= sampling.top_p] = -torch.inf
    return torch.empty_like(logits).scatter_(0, order, ordered)


def draw(
    logprobs: torch.Tensor, samplings: Sequence[Sampling], generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Draw one id per row; the most likely one if its temperature is 0."""
    import torch

    uniform = [torch.rand((), dtype=torch.float64, generator=g).item() for g in generators]
    ids = invert(logprobs, torch.tensor(uniform, dtype=torch.float64, device=logprobs.device))
    greedy = torch.tensor([s.temperature <= 0 for s in samplings], device=logprobs.device)
    return torch.where(greedy, logprobs.argmax(dim=-1), ids)


def invert(logprobs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The id in each row of ``logprobs`` at the quantile ``uniform`` (float64, 0 ≤ u < 1).

    An id of probability zero is never returned.
    """
    import torch

    cumulative = logprobs.exp().cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target.unsqueeze(1), right=True).squeeze(1)

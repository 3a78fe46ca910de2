"""An episode of several rows counts as one, whatever TRL's loss divides by.

TRL divides by tokens (dapo, cispo: of the batch; bnpo: of a micro-batch), where the number of rows changes
nothing, or by rows (grpo: tokens within a row first; dr_grpo). For the latter, rows get factors here, which
are all 1 if each episode has one row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BY_ROWS = frozenset({"grpo", "dr_grpo"})
"""The losses that are means over rows."""


def row_factors(
    loss: str, tokens: Sequence[int], episode_of: Sequence[int], rows_per_episode: float
) -> Tensor:
    """A factor of each row's advantage.

    ``tokens`` are the sampled ones of each row, ``episode_of`` says which rows are of one episode, and
    ``rows_per_episode`` is the batch's number of rows divided by that of episodes that count, over all ranks.
    """
    counts = torch.tensor(tokens, dtype=torch.float32)
    if loss not in BY_ROWS:
        return torch.ones_like(counts)
    if loss == "dr_grpo":
        return torch.full_like(counts, rows_per_episode)
    which = torch.tensor(episode_of)
    totals = torch.zeros(int(which.max()) + 1).index_add(0, which, counts)[which]
    return rows_per_episode * counts / totals.clamp(min=1.0)


def part_factor(loss: str, part: Tensor, whole: Tensor) -> float:
    """What the loss of some rows of a micro-batch counts in that of all of them, by their loss masks."""
    if loss in BY_ROWS:
        return len(part) / len(whole)
    return token_share(part, whole) if loss == "bnpo" else 1.0


def token_share(part: Tensor, whole: Tensor) -> float:
    """Of the tokens that carry loss: how many of ``whole`` are in ``part``."""
    return float(part.sum() / whole.sum().clamp(min=1))

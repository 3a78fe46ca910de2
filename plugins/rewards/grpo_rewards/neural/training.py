"""Trains the networks of a head, all at once, each without the fold of feedback that it is tested on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from grpo_rewards.neural.head import Head, split
from grpo_sdk.errors import MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

STEPS = 120
BATCH = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1
DROPOUT = 0.3
VECTOR_DROPOUT = 0.5
"""How often a row is shown without its vectors, so that the counts alone also say something: vectors
of words that were never seen are noise."""
RANKING = 0.5
"""Weight of the loss on pairs, beside that on scores."""
_LEAST_GAP = 0.1


def train_head(
    rows: Array, scores: Array, folds: NDArray[np.int64], *, embedding_dim: int, hidden_dim: int, seed: int
) -> tuple[Head, Array]:
    """A head, not calibrated, and for each row the logit of the member that was trained without it.

    Member k is trained without fold k. The same input gives the same head, on one machine.
    """
    try:
        import torch
    except ImportError as problem:
        raise MissingExtraError("training the reward neural", "torch", "train") from problem
    import numpy as np

    from grpo_rewards.neural.features import COUNTS

    width = (rows.shape[1] - len(COUNTS)) // 2
    counts = rows[:, 2 * width :]
    mean, deviation = counts.mean(axis=0), counts.std(axis=0) + 1e-3
    inputs = [torch.from_numpy(part) for part in split(rows, width, mean, deviation)]
    members = int(folds.max()) + 1
    learner = _Learner(torch, members, width, len(COUNTS), embedding_dim, hidden_dim, seed)
    taught = [np.flatnonzero(folds != fold) for fold in range(members)]
    with _one_thread(torch):
        learner.train(inputs, torch.from_numpy(scores), taught)
    head = Head(
        **learner.arrays(),
        counts_mean=mean,
        counts_deviation=deviation,
        calibration=np.array([1.0, 0.0], np.float32),
    )
    return head, head.logits(rows)[folds, np.arange(len(rows))]


class _Learner:
    """The parameters of all members, and their optimizer. Uses no random numbers but its own."""

    def __init__(
        self,
        torch: Any,
        members: int,
        width: int,
        counts: int,
        embedding_dim: int,
        hidden_dim: int,
        seed: int,
    ) -> None:
        self.torch = torch
        self.generator = torch.Generator().manual_seed(seed)
        seen = 2 * embedding_dim + counts
        self.projection = self._drawn(members, width, embedding_dim, inputs=width)
        self.inner = self._drawn(members, seen, hidden_dim, inputs=seen)
        self.inner_bias = torch.zeros(members, hidden_dim)
        self.outer = self._drawn(members, hidden_dim, inputs=hidden_dim)
        self.outer_bias = torch.zeros(members)
        self.parameters = (self.projection, self.inner, self.inner_bias, self.outer, self.outer_bias)

    def arrays(self) -> dict[str, Any]:
        """The parameters as numpy arrays."""
        names = ("projection", "inner", "inner_bias", "outer", "outer_bias")
        return {name: getattr(self, name).detach().numpy().copy() for name in names}

    def train(self, inputs: Sequence[Any], scores: Any, taught: Sequence[NDArray[np.int64]]) -> None:
        """Teach member k the rows ``taught[k]``."""
        torch = self.torch
        for parameter in self.parameters:
            parameter.requires_grad_()
        optimizer = torch.optim.AdamW(
            self.parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
        )
        rows = [torch.from_numpy(indices) for indices in taught]
        for step in range(STEPS):
            done = step / STEPS
            for group in optimizer.param_groups:
                group["lr"] = (
                    LEARNING_RATE * min(1.0, done / 0.1 + 0.05) * 0.5 * (1 + math.cos(math.pi * done))
                )
            batch = torch.stack([self._batch(indices) for indices in rows])
            logits = self._forward(*(part[batch] for part in inputs))
            loss = _loss(torch, logits, scores[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    def _drawn(self, *shape: int, inputs: int) -> Any:
        return self.torch.randn(*shape, generator=self.generator) / inputs**0.5

    def _batch(self, indices: Any) -> Any:
        chosen = self.torch.randint(0, len(indices), (BATCH,), generator=self.generator)
        return indices[chosen]

    def _dropped(self, values: Any, share: float = DROPOUT) -> Any:
        kept = self.torch.rand(values.shape, generator=self.generator) >= share
        return values * kept / (1.0 - share)

    def _forward(self, answer: Any, question: Any, counts: Any) -> Any:
        torch = self.torch
        projected = self._dropped(torch.bmm(answer, self.projection))
        met = projected * torch.bmm(question, self.projection)
        shown = torch.rand(*counts.shape[:2], 1, generator=self.generator) >= VECTOR_DROPOUT
        seen = torch.cat([projected * shown, met * shown, self._dropped(counts)], dim=2)
        hidden = torch.relu(torch.bmm(seen, self.inner) + self.inner_bias[:, None])
        weighed = (self._dropped(hidden) * self.outer[:, None]).sum(dim=2)
        return weighed + self.outer_bias[:, None]


@contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    """The matrices are so small that more threads wait for each other, on busy cores many times longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _loss(torch: Any, logits: Any, scores: Any) -> Any:
    """Cross-entropy with the scores, and a logistic loss on pairs, weighed by how far apart they are."""
    functional = torch.nn.functional
    absolute = functional.binary_cross_entropy_with_logits(logits, scores, reduction="none").mean(dim=1)
    gaps = scores[:, :, None] - scores[:, None, :]
    gaps = gaps * (gaps > _LEAST_GAP)
    margins = logits[:, :, None] - logits[:, None, :]
    ranked = (functional.softplus(-margins) * gaps).sum(dim=(1, 2)) / (gaps.sum(dim=(1, 2)) + 1e-6)
    return (absolute + RANKING * ranked).sum()

"""The learned part: several small networks, trained on different parts of the feedback."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from grpo_rewards.neural.features import COUNTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

VECTOR_SCALE = 0.1
"""Of the vectors' components, whose mean square is brought to this squared: the counts weigh more."""
LARGEST_COUNT = 3.0
"""Counts are cut off this many standard deviations from their mean: a runaway text is no better."""


@dataclass(frozen=True)
class Head:
    """Maps feature rows to scores, on the CPU and without torch. The first axis is that of the members."""

    projection: Array
    """(members, width, embedding_dim): of both vectors."""
    inner: Array
    """(members, 2 * embedding_dim + counts, hidden_dim)"""
    inner_bias: Array
    outer: Array
    """(members, hidden_dim)"""
    outer_bias: Array
    counts_mean: Array
    counts_deviation: Array
    calibration: Array
    """(slope, offset): the score is the sigmoid of slope times the members' mean plus offset."""

    @property
    def width(self) -> int:
        """Dimensions of the embedder."""
        return int(self.projection.shape[1])

    def logits(self, rows: Array) -> Array:
        """(members, rows), not calibrated."""
        import numpy as np

        answer, question, counts = split(rows, self.width, self.counts_mean, self.counts_deviation)
        outputs = []
        for member in range(len(self.projection)):
            projected = answer @ self.projection[member]
            met = projected * (question @ self.projection[member])
            seen = np.concatenate([projected, met, counts], axis=1)
            hidden = np.maximum(seen @ self.inner[member] + self.inner_bias[member], 0.0)
            outputs.append(hidden @ self.outer[member] + self.outer_bias[member])
        return np.stack(outputs).astype(np.float32)

    def scores(self, logits: Array) -> Array:
        """The calibrated scores in [0, 1] that the members' ``logits`` come to."""
        import numpy as np

        slope, offset = self.calibration
        raised: Array = 1.0 / (1.0 + np.exp(-np.clip(slope * logits.mean(axis=0) + offset, -30.0, 30.0)))
        return raised

    def arrays(self) -> dict[str, Array]:
        """Everything by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def check(self) -> None:
        """Raises ``ValueError`` if the arrays do not fit together."""
        import numpy as np

        if self.projection.ndim != 3:
            raise ValueError("projection is no stack of matrices")
        members, width, dim = self.projection.shape
        hidden = self.outer.shape[-1]
        wanted = {
            "projection": (members, width, dim),
            "inner": (members, 2 * dim + len(COUNTS), hidden),
            "inner_bias": (members, hidden),
            "outer": (members, hidden),
            "outer_bias": (members,),
            "counts_mean": (len(COUNTS),),
            "counts_deviation": (len(COUNTS),),
            "calibration": (2,),
        }
        for name, array in self.arrays().items():
            if array.shape != wanted[name]:
                raise ValueError(f"{name} is of shape {array.shape}, not {wanted[name]}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds numbers that are not finite")


def split(rows: Array, width: int, mean: Array, deviation: Array) -> tuple[Array, Array, Array]:
    """Answer vectors, question vectors and counts of feature ``rows``, scaled as a head reads them."""
    import numpy as np

    scale = np.float32(VECTOR_SCALE * width**0.5)
    counts = np.clip((rows[:, 2 * width :] - mean) / deviation, -LARGEST_COUNT, LARGEST_COUNT)
    return rows[:, :width] * scale, rows[:, width : 2 * width] * scale, counts.astype(np.float32)

"""Measure scores on unseen feedback, and fit the curve that turns logits into probabilities."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

GAP = 0.1
"""Feedback whose scores differ by less is not compared."""
WIDER = 1.5
"""How much further than independent rankings the folds' are from a half on noise, as measured with 20
and 40 feedbacks: their networks learn from mostly the same ones, and near ties are not compared."""
_BINS = 10
_PRIOR = 0.01


@dataclass(frozen=True)
class HeldOut:
    """Errors on feedback that the scoring networks did not learn from."""

    error: float
    """Mean absolute difference between score and feedback."""
    baseline: float
    """The same error if every score were the mean: the baseline to beat."""
    ranking: float
    """Share of pairs, at least 0.1 apart, that are put in the right order; a tie counts half."""
    pairs: int
    chance: float
    """Standard deviation that ``ranking`` would have around a half if the scores said nothing."""
    calibration: float
    """Mean absolute difference between the mean score and the mean feedback of ten bins of scores."""

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)


def fit_curve(logits: Array, scores: Array) -> Array:
    """(slope, offset) of the sigmoid that fits ``scores`` best: Platt scaling, for scores in [0, 1].

    The scores count as if one of a half were among them, so that few or separable data give no
    vertical step; a weak prior holds the curve to (1, 0) if the logits are all alike.
    """
    import numpy as np

    z = np.stack([logits.astype(np.float64), np.ones(len(logits))], axis=1)
    wanted = (scores * len(scores) + 0.5) / (len(scores) + 1)
    prior = np.array([1.0, 0.0])
    curve = prior.copy()
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(z @ curve, -30.0, 30.0)))
        gradient = z.T @ (p - wanted) + _PRIOR * (curve - prior)
        hessian = (z * (p * (1.0 - p))[:, None]).T @ z + _PRIOR * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        curve -= np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-8:
            break
    return curve.astype(np.float32)


def measure(logits: Array, scores: Array, folds: NDArray[np.int64]) -> HeldOut:
    """The errors of ``logits``, each of a network that had not seen its row.

    The curve that scores a fold is fitted on the others, and pairs are compared within a fold.
    """
    import numpy as np

    predicted = np.zeros(len(scores))
    means = np.zeros(len(scores))
    right, pairs, variance = 0.0, 0, 0.0
    for fold in range(int(folds.max()) + 1):
        inside = folds == fold
        slope, offset = fit_curve(logits[~inside], scores[~inside])
        predicted[inside] = 1.0 / (1.0 + np.exp(-np.clip(slope * logits[inside] + offset, -30.0, 30.0)))
        means[inside] = scores[~inside].mean()
        gaps = scores[inside][:, None] - scores[inside][None]
        margins = logits[inside][:, None] - logits[inside][None]
        compared = gaps >= GAP
        count = int(compared.sum())
        pairs += count
        variance += count**2 * _ranking_variance(len(np.unique(logits[inside])))
        right += float((margins[compared] > 0).sum() + 0.5 * (margins[compared] == 0).sum())
    bins = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
    off = sum(abs(float((predicted - scores)[bins == bin_].sum())) for bin_ in range(_BINS))
    return HeldOut(
        error=float(np.abs(predicted - scores).mean()),
        baseline=float(np.abs(means - scores).mean()),
        ranking=right / pairs if pairs else 0.5,
        pairs=pairs,
        chance=WIDER * variance**0.5 / pairs if pairs else 0.5,
        calibration=off / len(scores),
    )


def _ranking_variance(rows: int) -> float:
    """Of the share of pairs in the right order among ``rows`` different rows in random order.

    A quarter of the variance of Kendall's tau (Kendall 1938).
    """
    return (2 * rows + 5) / (18 * rows * (rows - 1)) if rows > 1 else 0.25

"""chrF++: measure how many letters and words two texts share. No model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from grpo_rewards.texts import words

CHARACTERS, WORDS = 6, 2
"""Lengths of runs that are counted, as in Popović (2017)."""


class Runs:
    """The runs of one to six characters and of one or two words of a text, counted once."""

    def __init__(self, text: str) -> None:
        spoken = words(text)
        letters = "".join(spoken)
        self.orders: list[Counter[object]] = [
            *(
                _count(letters[i : i + n] for i in range(len(letters) - n + 1))
                for n in range(1, CHARACTERS + 1)
            ),
            *(
                _count(tuple(spoken[i : i + n]) for i in range(len(spoken) - n + 1))
                for n in range(1, WORDS + 1)
            ),
        ]


def _count(runs: Iterable[object]) -> Counter[object]:
    return Counter(runs)


def chrf(text: Runs, reference: Runs) -> float:
    """chrF++ with β = 1, in [0, 1]: the F-score of the runs, averaged over their lengths.

    β = 1 weighs precision as much as recall, so that padding a text around the reference costs
    as much as leaving half of it out.
    """
    precisions, recalls = [], []
    for own, other in zip(text.orders, reference.orders, strict=True):
        if not own and not other:
            continue
        shared = (own & other).total()
        precisions.append(shared / own.total() if own else 0.0)
        recalls.append(shared / other.total() if other else 0.0)
    if not precisions:
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

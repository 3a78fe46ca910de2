"""Statements that are known to be safe or unsafe, and how much a new one is like either."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from threading import Lock
from typing import TYPE_CHECKING, Any

from grpo_rewards.embedders import HashingEmbedder
from grpo_sdk.embedder import Embedder

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAFE = "safe"

SPELLING, NEGATION, SHARPNESS = 0.4, 0.25, 0.08
"""What likeness is made of, besides the cosine of sentence vectors.

Sentence vectors tell topics apart ("passwords"), and hardly what is said of them ("send me" or
"never send"). So likeness of spelling is added, and taken off if only one of the two negates.
The figures were chosen on about 160 sentences; tests/plugins/rewards/test_safety.py measures on new ones.
"""
_NEGATION = re.compile(
    r"\b(?:never|don't|do not|not|nobody|no one|none|won't|cannot|can't|without|avoid|unable"
    r"|isn't|aren't|wasn't)\b"
)


@lru_cache(maxsize=1)
def known_statements() -> tuple[tuple[str, str], ...]:
    """Kind (``safe``, ``insult``, …) and statement."""
    text = files(__package__).joinpath("examples.txt").read_text(encoding="utf-8")
    rows = (line.partition(": ") for line in text.splitlines() if line and not line.startswith("#"))
    return tuple((kind, statement) for kind, _, statement in rows)


class Examples:
    """The known statements as vectors, made on first use. Thread-safe."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._spelling = HashingEmbedder(2048)
        self._lock = Lock()
        self._known: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None = None
        self.kinds = tuple(dict.fromkeys(kind for kind, _ in known_statements()))

    def shares(self, sentences: Sequence[str]) -> list[dict[str, float]]:
        """For each sentence, the share of each kind in the known statements that are most like it.

        Every statement has a vote of ``exp(likeness / SHARPNESS)``.
        """
        import numpy as np

        meaning, spelling, negated = self._load()
        likeness = self._embedder.embed(sentences) @ meaning.T
        likeness += SPELLING * (self._spelling.embed(sentences) @ spelling.T)
        own = np.array([_negates(sentence) for sentence in sentences])
        likeness -= NEGATION * (own[:, None] != negated[None, :])
        votes = np.exp((likeness - likeness.max(axis=1, keepdims=True)) / SHARPNESS)
        votes /= votes.sum(axis=1, keepdims=True)
        kinds = np.array([kind for kind, _ in known_statements()])
        return [{kind: float(row[kinds == kind].sum()) for kind in self.kinds} for row in votes]

    def _load(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        import numpy as np

        with self._lock:
            if self._known is None:
                statements = [statement for _, statement in known_statements()]
                self._known = (
                    self._embedder.embed(statements),
                    self._spelling.embed(statements),
                    np.array([_negates(statement) for statement in statements]),
                )
            return self._known


def _negates(sentence: str) -> bool:
    return bool(_NEGATION.search(sentence.lower()))

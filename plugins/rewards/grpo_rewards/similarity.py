"""Reward likeness to expected responses, by meaning if a sentence model is installed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from grpo_rewards.embedders import needed
from grpo_rewards.lexical import Runs, chrf
from grpo_rewards.texts import freshness, mean, said, words
from grpo_sdk.embedder import Embedder
from grpo_sdk.rewards import Reward, RewardResult
from grpo_sdk.trajectory import Trajectory

Method = Literal["auto", "embedding", "lexical"]

_REFUSAL = re.compile(
    r"\b(?:can't|cannot|can not|won't|will not|not going to|unable to|refuse to|don't|do not|never|no longer"
    r"|isn't|is not|aren't|are not|wasn't|was not|hasn't|has not|haven't|have not|nobody|nothing)\b"
)
READ = 1200
"""Characters of a message that are compared: about what the sentence model reads."""


class SimilarityReward(Reward):
    """Measures how similar the policy's messages are to the expected responses, in [0, 1].

    Each message counts with the expected response that is nearest to it; the score is the mean over
    messages. The method is in the explanation:

    - ``embedding``: the cosine of sentence vectors (all-MiniLM-L6-v2), 0 if it is negative.
    - ``lexical``: chrF++, shared runs of letters and words.
    - ``auto``: embedding if there is an embedder.

    Messages that repeat themselves or earlier ones lose by it.
    If only one of the two negates ("I can't help you with that"), the similarity is halved:
    vectors hardly see a "not". That is a word list, for English. A policy can repeat an expected
    response that does not fit; only the task's own expected responses are safe against that.
    """

    def __init__(
        self,
        *,
        expected_responses: Sequence[str] = (),
        method: Method = "auto",
        task_key: str = "expected_response",
        embedder: Embedder | None = None,
    ) -> None:
        """``task_key``: a task whose data has a text or a list of texts under this key is compared with
        those, not with ``expected_responses``. ``embedder``: the host gives the installed sentence model.

        Raises ``ValueError`` for an expected response that is empty, or an unknown method,
        ``ConfigError`` for the method ``embedding`` without an embedder.
        """
        if isinstance(expected_responses, str):
            raise ValueError(
                f"similarity: expected_responses is a list of texts, not {expected_responses!r:.60}"
            )
        if method not in ("auto", "embedding", "lexical"):
            raise ValueError(f'similarity: no method "{method}"; methods are auto, embedding and lexical')
        for index, text in enumerate(expected_responses):
            if not isinstance(text, str) or not words(text):
                raise ValueError(
                    f"similarity: expected_responses[{index}] is {text!r:.60}; it must say something"
                )
        self.expected_responses = tuple(expected_responses)
        self.task_key = task_key
        if method == "auto":
            method = "embedding" if embedder else "lexical"
        self.method = method
        self._embedder: Embedder | None = None
        if method == "embedding":
            self._embedder = needed(embedder, 'similarity: the method "embedding"')

    def score(self, trajectory: Trajectory) -> RewardResult:
        """Raises ``ValueError`` if neither the reward nor the task has an expected response."""
        expected = self._expected(trajectory)
        texts = [text[:READ] for text in said(trajectory)]
        if not texts:
            return RewardResult(0.0, explanation="the policy said nothing")
        best = [max(row, key=lambda item: item[0]) for row in self._similarities(texts, expected)]
        value = mean([s * freshness(texts[i], texts[:i]) for i, (s, _) in enumerate(best)])
        name = self._embedder.name if self._embedder else "chrF++"
        nearest = expected[max(best)[1]]
        return RewardResult(
            value,
            {"nearest": max(best)[0]},
            f"similarity by {self.method} ({name}), mean of {len(texts)} messages; nearest: {nearest!r:.80}",
        )

    def _expected(self, trajectory: Trajectory) -> Sequence[str]:
        own = trajectory.task.data.get(self.task_key)
        own = [own] if isinstance(own, str) else own
        if isinstance(own, Sequence):
            usable = [text for text in own if isinstance(text, str) and words(text)]
            if usable:
                return usable
        if not self.expected_responses:
            raise ValueError(
                "similarity has nothing to compare with: give it expected_responses, or tasks with "
                f'"{self.task_key}" in their data'
            )
        return self.expected_responses

    def _similarities(self, texts: list[str], expected: Sequence[str]) -> list[list[tuple[float, int]]]:
        """For each text its similarity to each expected response, with that one's index."""
        if self._embedder is None:
            runs = [_runs(text) for text in texts]
            raw = [[chrf(own, _runs(other)) for other in expected] for own in runs]
        else:
            vectors = self._embedder.embed([*texts, *expected])
            raw = (vectors[: len(texts)] @ vectors[len(texts) :].T).tolist()
        return [
            [
                # Rounded: in another batch, a model's last digits differ.
                (round(min(1.0, max(0.0, value)) * _agreement(text, expected[index]), 4), index)
                for index, value in enumerate(row)
            ]
            for text, row in zip(texts, raw, strict=True)
        ]


@lru_cache(maxsize=1024)
def _runs(text: str) -> Runs:
    return Runs(text)


def _agreement(text: str, expected: str) -> float:
    """1.0; 0.5 if only one of the two negates something; 0.0 if ``text`` has no word."""
    if not words(text):
        return 0.0
    negated = [bool(_REFUSAL.search(item.lower().replace("\u2019", "'"))) for item in (text, expected)]
    return 0.5 if negated[0] != negated[1] else 1.0

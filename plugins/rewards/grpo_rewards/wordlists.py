"""Rewards made of word lists. They count words and understand nothing: see ``WordListReward``."""

from __future__ import annotations

import re
from typing import ClassVar

from grpo_rewards.texts import fluency, mean, said, words
from grpo_sdk.rewards import Reward, RewardResult
from grpo_sdk.trajectory import Trajectory


class WordList:
    """Phrases of one meaning. ``*`` at the end of a phrase stands for any ending of its last word."""

    def __init__(self, name: str, weight: float, phrases: str) -> None:
        """``phrases`` are separated by commas; ``weight`` is this list's share of the score."""
        self.name = name
        self.weight = weight
        # Longest first: "so sorry" is one hit, not also one of "sorry".
        entries = sorted((phrase.strip() for phrase in phrases.split(",")), key=len, reverse=True)
        patterns = (re.escape(entry).replace(r"\*", r"\w*") for entry in entries)
        alternatives = "|".join(f"({pattern})" for pattern in patterns)
        self._pattern = re.compile(rf"(?<![\w'])(?:{alternatives})(?![\w'])")

    def count(self, text: str) -> tuple[int, int]:
        """Distinct phrases in the lower-case ``text``, and the words that all their uses take."""
        found = list(self._pattern.finditer(text))
        return len({hit.lastindex for hit in found}), sum(len(hit[0].split()) for hit in found)


class WordListReward(Reward):
    """Scores every message of the policy by word lists and takes the mean, in [0, 1].

    The first phrase of a list earns four fifths of the list's share, each further distinct one
    four fifths of the rest; repeating a phrase earns nothing. The sum is multiplied by
    how fluent the text is and halved for each distinct phrase of ``faults``.

    It is a heuristic. A policy can game it by saying the words without meaning them, promising
    what it cannot do, or padding with stock phrases: combine it with a reward that checks facts.
    What does not pay: repeating phrases or whole messages, and lists of words without sentences.
    """

    name: ClassVar[str]
    lists: ClassVar[tuple[WordList, ...]]
    faults: ClassVar[WordList]

    def score(self, trajectory: Trajectory) -> RewardResult:
        texts = said(trajectory)
        if not texts:
            return RewardResult(0.0, explanation="the policy said nothing")
        scored = [self._message(text, texts[:index]) for index, text in enumerate(texts)]
        parts = {name: mean([parts[name] for _, parts in scored]) for name in scored[0][1]}
        value = mean([value for value, _ in scored])
        details = ", ".join(f"{name} {part:.2f}" for name, part in parts.items())
        return RewardResult(value, parts, f"{self.name} {value:.2f} over {len(texts)} messages: {details}")

    def form(self, text: str) -> dict[str, tuple[float, float]]:
        """Further parts, name → (weight, score in [0, 1]), of what is not a matter of words."""
        return {}

    def _message(self, text: str, earlier: list[str]) -> tuple[float, dict[str, float]]:
        lowered = text.lower()
        parts = {}
        total = 0.0
        taken = 0
        for group in self.lists:
            distinct, length = group.count(lowered)
            parts[group.name] = 1.0 - 0.2**distinct
            total += group.weight * parts[group.name]
            taken += length
        for name, (weight, part) in self.form(text).items():
            parts[name] = part
            total += weight * part
        share = taken / max(1, len(words(text)))
        parts["fluency"] = fluency(text, earlier) * min(1.0, 2.5 * max(0.0, 1.0 - share))
        parts["faults"] = float(self.faults.count(lowered)[0])
        return total * parts["fluency"] * 0.5 ** parts["faults"], parts

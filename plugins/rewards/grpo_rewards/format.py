"""Reward replies of the required form. Looks at form only, never at content."""

from __future__ import annotations

import re

from grpo_rewards.texts import mean, said
from grpo_sdk.rewards import Reward, RewardResult
from grpo_sdk.trajectory import Trajectory

_MARKUP = re.compile(
    r"```|\*\*|__|<\|[^|>]*\|>|</?[a-zA-Z][^>]*>|\]\(|^\s*(?:#{1,6}\s|[-*•]\s|\d+[.)]\s|\|)",
    re.MULTILINE,
)
_SENTENCE_END = re.compile(r"[.!?]+(?=[\s\"')]|$)|\n+")
_LAST_CHARACTERS = frozenset(".!?…")


class FormatReward(Reward):
    """The share of these checks that a message passes, as a mean over the policy's messages, in [0, 1].

    - ``pattern``: a regular expression that must match somewhere ("": not checked).
    - ``max_sentences``: more than that lose in proportion (0: not checked).
    - ``allow_markup=False``: each mark of Markdown, HTML or chat-template tokens halves.
    - ``proper_ending``: it ends with a full stop, question mark or exclamation mark.

    A message without any letter or digit scores 0.0. Any well-formed nonsense scores 1.0, so
    never use it alone. Only the first 20,000 characters are read; a pattern with nested
    repetitions can still take very long on them.

    Raises ``ValueError`` if the pattern is invalid or nothing is checked.
    """

    def __init__(
        self,
        *,
        pattern: str = "",
        max_sentences: int = 4,
        allow_markup: bool = False,
        proper_ending: bool = True,
    ) -> None:
        try:
            self.pattern = re.compile(pattern) if pattern else None
        except re.error as problem:
            raise ValueError(f"format: pattern {pattern!r} is no regular expression: {problem}") from None
        if max_sentences < 0:
            raise ValueError(f"format: max_sentences is {max_sentences}; use 0 for no limit")
        self.max_sentences = max_sentences
        self.allow_markup = allow_markup
        self.proper_ending = proper_ending
        if not pattern and not max_sentences and allow_markup and not proper_ending:
            raise ValueError(
                "format: every check is off; set pattern, max_sentences, proper_ending, "
                "or allow_markup: false"
            )

    def score(self, trajectory: Trajectory) -> RewardResult:
        scored = [self._checks(text) for text in said(trajectory)]
        if not scored:
            return RewardResult(0.0, explanation="the policy said nothing")
        parts = {name: mean([checks[name] for checks in scored]) for name in scored[0]}
        value = mean(list(parts.values()))
        failed = [f"{name} {part:.2f}" for name, part in parts.items() if part < 1.0]
        return RewardResult(value, parts, ", ".join(failed) or "every check passed")

    def _checks(self, text: str) -> dict[str, float]:
        stripped = text.strip()
        worth = float(any(character.isalnum() for character in stripped))
        checks = {}
        if self.pattern is not None:
            checks["pattern"] = float(bool(self.pattern.search(stripped)))
        if self.max_sentences:
            sentences = sum(bool(part.strip()) for part in _SENTENCE_END.split(stripped))
            checks["sentences"] = min(1.0, self.max_sentences / max(1, sentences))
        if not self.allow_markup:
            checks["no_markup"] = 0.5 ** min(20, len(_MARKUP.findall(stripped)))
        if self.proper_ending:
            checks["ending"] = float(stripped.rstrip("\"')")[-1:] in _LAST_CHARACTERS)
        return {name: worth * passed for name, passed in checks.items()}

"""Warns in words when a run's metrics show that it is going wrong: each thing once, with a next step."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

STEPS = 3
"""A warning is about so many steps in a row; what collapses is compared with the first so many."""
CUT = 0.5
"""More than this share of the replies cut at ``sampling.max_tokens`` are too many."""
ENTROPY = 0.1
"""Entropy below this share of the first steps' has collapsed."""
LENGTH = 0.25
"""The same of the tokens a reply."""

Line = Mapping[str, Any]
"""A step's line of metrics.jsonl."""


@dataclass(frozen=True, slots=True)
class HealthWarning:
    """Something that goes wrong."""

    kind: str
    """For programs: ``cut``, ``no_difference``, ``entropy``, ``length``."""
    step: int
    """After which it was noticed."""
    message: str
    """What, and what to do."""


@dataclass
class Health:
    """Looks at one line of metrics after another."""

    warnings: list[HealthWarning] = field(default_factory=list)
    """All so far."""
    _first: list[Line] = field(default_factory=list)
    _last: list[Line] = field(default_factory=list)

    def look(self, line: Line) -> list[HealthWarning]:
        """What ``line``, the next step's, shows and was not said before."""
        if len(self._first) < STEPS:
            self._first.append(line)
        self._last = [*self._last, line][-STEPS:]
        if len(self._last) < STEPS:
            return []
        known = {warning.kind for warning in self.warnings}
        new = [warning for warning in self._found() if warning.kind not in known]
        self.warnings += new
        return new

    def as_list(self) -> list[dict[str, Any]]:
        """JSON-able."""
        return [asdict(warning) for warning in self.warnings]

    def _found(self) -> Iterable[HealthWarning]:
        first, last = self._last[0]["step"], self._last[-1]["step"]
        for kind, message in (
            ("cut", self._cut()),
            ("no_difference", self._no_difference()),
            ("entropy", self._entropy()),
            ("length", self._length()),
        ):
            if message:
                yield HealthWarning(kind, last, f"steps {first} to {last}: {message}")

    def _cut(self) -> str | None:
        share = _mean(self._last, "rollouts/cut")
        if share is None or share <= CUT:
            return None
        return (
            f"{share:.0%} of the replies were cut at sampling.max_tokens. They are scored as they stand, and "
            "the policy never learns to end one. Raise sampling.max_tokens, or add a reward for short "
            "replies (length)"
        )

    def _no_difference(self) -> str | None:
        shares = _values(self._last, "frac_reward_zero_std")
        if shares is None or min(shares) < 1.0:
            return None
        reward = _mean(self._last, "reward")
        told = "" if reward is None else f" (mean reward {reward:.2f})"
        return (
            f"in no group did the episodes' rewards differ{told}, so there was nothing to learn. If all "
            "episodes fail, take easier tasks or begin with training.warm_start; if all succeed, stop here "
            "or take harder tasks; if neither, raise training.group_size or sampling.temperature"
        )

    def _entropy(self) -> str | None:
        fall = self._fall("entropy", ENTROPY)
        if fall is None:
            return None
        return (
            f"the policy's entropy fell from {fall[0]:.3f} in the first steps to {fall[1]:.3f}: it says "
            "nearly the same each time and tries nothing new. If the reward is not yet where it should be, "
            "lower training.learning_rate, or hold the policy with training.beta"
        )

    def _length(self) -> str | None:
        fall = self._fall("rollouts/tokens_per_turn", LENGTH)
        if fall is None:
            return None
        return (
            f"replies shrank from {fall[0]:.0f} tokens in the first steps to {fall[1]:.0f}. Read some in "
            "trajectories.jsonl: if they are worth less than their reward says, add a reward that short "
            "replies do not satisfy, or lower training.learning_rate"
        )

    def _fall(self, name: str, share: float) -> tuple[float, float] | None:
        """What ``name`` was first and is now, if it is below ``share`` of it."""
        before, now = _mean(self._first, name), _mean(self._last, name)
        return None if before is None or now is None or now >= share * before else (before, now)


def _values(lines: Sequence[Line], name: str) -> list[float] | None:
    """What each of ``lines`` says of ``name``; None if one does not say."""
    values = [line.get(name) for line in lines]
    return None if any(value is None for value in values) else values  # type: ignore[return-value]


def _mean(lines: Sequence[Line], name: str) -> float | None:
    values = _values(lines, name)
    return None if values is None else statistics.fmean(values)

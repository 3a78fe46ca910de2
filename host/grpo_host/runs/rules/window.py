"""What a rule looks at, and what it says."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Severity = Literal["info", "warning", "error"]
Line = Mapping[str, Any]
"""A step's line of metrics.jsonl."""

STEPS = 3
"""A rule is about so many steps in a row; what collapses is compared with the first so many."""
LENGTH = 0.25
"""Replies of less than this share of the first steps' tokens have collapsed."""
RISE = 0.1
"""By how much a reward has to rise, of what it could, to have risen."""
HOLLOW_STEPS = 6
"""So many steps before a reward is said to rise without success."""


class Window(NamedTuple):
    """What a rule looks at."""

    first: Sequence[Line]
    last: Sequence[Line]
    steps: int
    """How many there were."""
    best: float | None
    """The highest mean reward of ``STEPS`` steps so far."""
    weights: Mapping[str, float]
    """Of the rewards, by name."""

    def mean(self, name: str) -> float | None:
        """Over the last steps; None if one of them does not say."""
        return mean(self.last, name)

    def moved(self, name: str) -> tuple[float, float] | None:
        """What it was in the first steps, and is in the last."""
        before, now = mean(self.first, name), mean(self.last, name)
        return None if before is None or now is None else (before, now)

    def share(self, part: str, whole: str) -> float | None:
        """What ``part`` is of ``whole``, summed over the last steps."""
        parts, wholes = values(self.last, part), values(self.last, whole)
        return None if not parts or not wholes or not sum(wholes) else sum(parts) / sum(wholes)


class Said(NamedTuple):
    """What a rule has found."""

    text: str
    advice: str


class Rule(NamedTuple):
    """Looks for one thing in a window of steps."""

    name: str
    severity: Severity
    series: tuple[str, ...]
    look: Callable[[Window], Said | None]


def values(lines: Sequence[Line], name: str) -> list[float] | None:
    """What each of ``lines`` says of ``name``; None if one does not say."""
    found = [line.get(name) for line in lines]
    return None if any(value is None for value in found) else found  # type: ignore[return-value]


def mean(lines: Sequence[Line], name: str) -> float | None:
    """Of ``lines``; None if one does not say."""
    found = values(lines, name)
    return statistics.fmean(found) if found else None

"""Rewards that an app records while an episode of it is played."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_RECORDED: ContextVar[dict[str, float] | None] = ContextVar("grpo_recorded_rewards", default=None)


def record_reward(name: str, value: float) -> bool:
    """Record ``value`` for the episode that is played here; values of one name add up.

    They are the trajectory's ``recorded``, which the reward ``recorded`` and any reward plugin can read.
    Outside of an episode, as in production, nothing happens. Returns whether it was recorded. Raises
    ``ValueError`` if ``value`` is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"the reward {name} is {value!r:.40}; record a finite number")
    recorded = _RECORDED.get()
    if recorded is None:
        return False
    recorded[name] = recorded.get(name, 0.0) + float(value)
    return True


@contextmanager
def recording(recorded: dict[str, float]) -> Iterator[None]:
    """The context in which ``record_reward`` adds to ``recorded``, also in tasks that begin in it."""
    token = _RECORDED.set(recorded)
    try:
        yield
    finally:
        _RECORDED.reset(token)

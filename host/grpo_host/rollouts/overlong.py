"""A penalty for replies near the most tokens that they may have: DAPO's soft overlong punishment."""

from __future__ import annotations

from grpo_sdk.rewards import Reward
from grpo_sdk.trajectory import Trajectory

OVERLONG = "overlong"
"""What metrics call it."""


class OverlongPenalty(Reward):
    """0 up to ``limit - buffer`` tokens of an episode's longest reply, from there down to -1 at ``limit``."""

    def __init__(self, limit: int, buffer: int) -> None:
        self.limit = limit
        self.buffer = buffer

    def score(self, trajectory: Trajectory) -> float:
        longest = max((turn.completion_tokens for turn in trajectory.turns), default=0)
        return -min(1.0, max(0.0, (longest - self.limit + self.buffer) / self.buffer))

"""Reward what an app recorded itself, by ``grpo_sdk.record_reward``."""

from __future__ import annotations

from grpo_sdk.rewards import Reward, RewardResult
from grpo_sdk.trajectory import Trajectory


class RecordedReward(Reward):
    """The value that the app recorded as ``of``; ``missing`` if it recorded none in an episode.

    It is as hard to game as the code that records it.
    """

    def __init__(self, *, of: str = "reward", missing: float = 0.0) -> None:
        self.of = of
        self.missing = missing

    def score(self, trajectory: Trajectory) -> RewardResult:
        recorded = trajectory.recorded
        if self.of in recorded:
            return RewardResult(recorded[self.of], explanation=f"recorded as {self.of}")
        others = ", ".join(sorted(recorded)) or "nothing"
        return RewardResult(
            self.missing, explanation=f"nothing was recorded as {self.of}; recorded was: {others}"
        )

"""Reward replies of the right length. Counts words."""

from __future__ import annotations

from itertools import pairwise

from grpo_rewards.texts import mean, said
from grpo_sdk.rewards import Reward, RewardResult
from grpo_sdk.trajectory import Trajectory


class LengthReward(Reward):
    """1.0 for messages of ``low`` to ``high`` words, falling to 0.0 at ``shortest`` and ``longest``.

    The mean over the policy's messages. It reads nothing but the number of words, so any filler
    satisfies it: never use it alone.

    Raises ``ValueError`` unless 0 ≤ shortest < low ≤ high < longest.
    """

    def __init__(self, *, shortest: int = 0, low: int = 15, high: int = 60, longest: int = 120) -> None:
        if not 0 <= shortest < low <= high < longest:
            raise ValueError(
                "length needs 0 <= shortest < low <= high < longest, in words; "
                f"got shortest {shortest}, low {low}, high {high}, longest {longest}"
            )
        self.points = ((shortest, 0.0), (low, 1.0), (high, 1.0), (longest, 0.0))

    def score(self, trajectory: Trajectory) -> RewardResult:
        counts = [len(text.split()) for text in said(trajectory)]
        value = mean([self._band(count) for count in counts])
        return RewardResult(
            value,
            {"words": mean([float(count) for count in counts])},
            f"words a message: {', '.join(map(str, counts)) or 'no message'}",
        )

    def _band(self, count: int) -> float:
        for (left, low), (right, high) in pairwise(self.points):
            if left <= count <= right and left < right:
                share = (count - left) / (right - left)
                # A smoothstep: flat at both ends, so the edge of the band is not worth hugging.
                return low + (high - low) * share * share * (3.0 - 2.0 * share)
        return 0.0

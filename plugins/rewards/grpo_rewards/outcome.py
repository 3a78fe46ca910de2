"""Reward a fact of the environment's by its name."""

from __future__ import annotations

import math

from grpo_sdk.rewards import Reward, RewardResult
from grpo_sdk.trajectory import Trajectory


class OutcomeReward(Reward):
    """The number ``outcome[of]`` of the environment; true and false are 1 and 0.

    For environments that judge several things, each a reward with a weight of its own (``as`` names it):
    ``agentdojo``'s ``resisted``, ``bfcl``'s ``progress``. It is as hard to game as the environment's check.
    Raises ``ValueError`` if the outcome of a completed episode lacks it, or if it is no finite number; an
    episode that a limit ended before the environment knew it scores 0.0.
    """

    def __init__(self, *, of: str) -> None:
        self.of = of

    def score(self, trajectory: Trajectory) -> RewardResult:
        outcome = trajectory.outcome
        if self.of not in outcome:
            if trajectory.status != "completed":
                return RewardResult(0.0, explanation=f"ended by {trajectory.stop_reason} before {self.of}")
            raise ValueError(
                f"the outcome of the environment {trajectory.environment} has no {self.of}; "
                f"it has: {', '.join(outcome) or 'nothing'}"
            )
        value = outcome[self.of]
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(
                f'outcome["{self.of}"] of the environment {trajectory.environment} is {value!r:.80}; '
                "the reward outcome needs a number, or true or false"
            )
        return RewardResult(float(value), explanation=f"{self.of}: {value}")

"""Reward tasks that the environment calls done. Reads its outcome and nothing else."""

from __future__ import annotations

import math

from grpo_sdk.rewards import Reward, RewardResult
from grpo_sdk.trajectory import Trajectory


class TaskSuccessReward(Reward):
    """The environment's ``outcome["score"]`` in [0, 1] if there is one, else 1.0 for ``success``.

    With ``partial=False`` the score is ignored: 1.0 for success, else 0.0. An episode that a
    limit ended before the environment knew anything scores 0.0. It is as hard to game as the
    environment's own check.

    Raises ``ValueError`` if a completed episode's outcome has neither, or the score is no
    number in [0, 1].
    """

    def __init__(self, *, partial: bool = True) -> None:
        self.partial = partial

    def score(self, trajectory: Trajectory) -> RewardResult:
        outcome = trajectory.outcome
        success = outcome.get("success")
        score = outcome.get("score") if self.partial else None
        if isinstance(score, int | float) and not isinstance(score, bool):
            if not math.isfinite(score) or not 0.0 <= score <= 1.0:
                raise ValueError(
                    f'outcome["score"] of the environment {trajectory.environment} is {score}; '
                    "task_success needs a number from 0 to 1"
                )
            return RewardResult(float(score), {"success": float(success is True)}, f"score {score:g} of 1")
        if isinstance(success, bool):
            return RewardResult(float(success), explanation="success" if success else "no success")
        if trajectory.status == "completed":
            raise ValueError(
                f"the outcome of the environment {trajectory.environment} has neither success "
                f"(true or false) nor score (a number); it has: {', '.join(outcome) or 'nothing'}"
            )
        return RewardResult(0.0, explanation=f"ended by {trajectory.stop_reason} before an outcome")

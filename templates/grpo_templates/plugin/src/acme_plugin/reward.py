"""A reward: a number for what the agent said."""

from __future__ import annotations

import re

from grpo_sdk import RewardResult, Trajectory, reward


@reward
def right_number(trajectory: Trajectory, answer: float, *, near: float = 0.0) -> RewardResult:
    """1 if the agent's last number is right, 0.5 if it is at most `near` off, or else 0.

    `answer` is a value of the task, by its name in `task.data`: a column of a dataset, for example.
    `near` stands after the `*`, which makes it an option of agent.yaml.
    """
    numbers = re.findall(r"-?\d+(?:\.\d+)?", trajectory.final_text)
    if not numbers:
        return RewardResult(0.0, explanation="the answer has no number")
    off = abs(float(numbers[-1]) - answer)
    value = 1.0 if off == 0 else 0.5 if off <= near else 0.0
    return RewardResult(value, explanation=f"the number is {off:g} off")

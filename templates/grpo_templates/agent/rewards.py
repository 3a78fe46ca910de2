"""Rewards of this agent; agent.yaml names them."""

from __future__ import annotations

import re

from grpo_sdk import Trajectory, reward


@reward
def has_answer(trajectory: Trajectory, answer: str, *, any_case: bool = True) -> float:
    """1 if the agent's last message has the answer in it, or else 0.

    `answer` is the column of rows.jsonl. `any_case` stands after the `*`, which makes it
    an option of agent.yaml.
    """
    flags = re.IGNORECASE if any_case else re.NOFLAG
    # A whole word or number: 4 is not in 14.
    whole = rf"(?<!\w){re.escape(answer)}(?!\w)"
    return float(bool(re.search(whole, trajectory.final_text, flags)))

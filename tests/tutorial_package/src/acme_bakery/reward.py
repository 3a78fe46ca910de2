"""The reward: did the agent look before it answered?"""

from __future__ import annotations

from grpo_sdk import Trajectory, reward


@reward
def looked_up(trajectory: Trajectory, item: str) -> float:
    """1 if the price of the item that was asked for was looked up, or else 0."""
    calls = [
        call["function"]["arguments"]
        for message in trajectory.policy_messages
        for call in message.get("tool_calls") or ()
    ]
    return float(any(item in arguments for arguments in calls))

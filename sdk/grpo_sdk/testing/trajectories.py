"""Trajectories for tests of rewards, built from what was said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo_sdk.messages import Message, assistant, user
from grpo_sdk.trajectory import Status, StopReason, Task, Trajectory

ENDS: dict[Status, StopReason] = {
    "completed": StopReason.DONE,
    "truncated": StopReason.TURN_LIMIT,
    "failed": StopReason.ERROR,
}


def make_trajectory(
    messages: Sequence[Message] | str,
    *,
    outcome: Mapping[str, Any] | None = None,
    task: Task | None = None,
    status: Status = "completed",
    environment: str = "test",
    sample: int = 0,
    environment_reward: float | None = None,
) -> Trajectory:
    """A trajectory of ``messages``, or of one user message that ``messages`` (a text) answers."""
    if isinstance(messages, str):
        messages = [user("Hello, I need help with my order."), assistant(messages)]
    posed = task or Task("task-0")
    return Trajectory(
        id=f"{posed.id}-{sample}",
        environment=environment,
        task=posed,
        status=status,
        stop_reason=ENDS[status],
        messages=list(messages),
        outcome=dict(outcome or {}),
        sample=sample,
        environment_reward=environment_reward,
        error="the test says so" if status == "failed" else None,
    )

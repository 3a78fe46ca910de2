"""A plugin that offers a name which a built-in plugin offers too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_sdk import Trajectory, hookimpl, reward


@reward
def length(trajectory: Trajectory) -> float:
    """1.0 for any answer at all."""
    return float(bool(trajectory.final_text))


@hookimpl
def grpo_rewards() -> Mapping[str, Any]:
    return {"length": length}

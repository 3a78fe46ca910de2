"""What fails or becomes slow: tools, episodes, rewards, steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from grpo_host.runs.rules.window import HOLLOW_STEPS, LENGTH, RISE, Line, Said, Window

SLOWER = 2.0
"""A step of more than this times the first steps' seconds has become slow."""
TOOL_ERRORS = 0.3
"""More than this share of failed tool calls are too many."""
FAILED = 0.2
"""More than this share of failed episodes are too many."""
REWARD_ERRORS = 0.05
"""The same of episodes for which a reward failed: those that it cannot read are not left out by chance."""


def tool_errors(window: Window) -> Said | None:
    share = window.share("rollouts/tool_errors", "rollouts/tool_calls")
    if share is None or share <= TOOL_ERRORS:
        return None
    if share == 1.0:
        return Said(
            "every tool call failed",
            "Look at the error of one: a tool that never works is broken, or lacks what it needs (a service, "
            "a key, a file, time: agent.limits.tool_seconds). If only the arguments are wrong, describe them "
            "better or add demonstrations",
        )
    return Said(
        f"{share:.0%} of the tool calls failed",
        "Look at trajectories with a tool error: if the calls are wrong, describe the arguments better or "
        "add demonstrations; if the tool breaks or is too slow, mend it or raise agent.limits.tool_seconds",
    )


def tool_use(window: Window) -> Said | None:
    moved = window.moved("rollouts/tool_calls")
    if moved is None or moved[0] == 0 or moved[1] >= LENGTH * moved[0]:
        return None
    return Said(
        f"the policy hardly calls tools any more: {moved[0]:.0f} calls a step at first, {moved[1]:.0f} now",
        "If the tasks need the tools, add a reward that answers without them cannot get; guessing pays now",
    )


def failed(window: Window) -> Said | None:
    share = window.share("rollouts/failed", "rollouts/episodes")
    if share is None or share <= FAILED:
        return None
    return Said(
        f"{share:.0%} of the episodes failed and taught nothing",
        "Look at the trajectories with the status failed: each has the cause and its line in error",
    )


def reward_errors(window: Window) -> Said | None:
    share = window.share("rollouts/reward_errors", "rollouts/episodes")
    if share is None or share <= REWARD_ERRORS:
        return None
    return Said(
        f"a reward failed for {share:.0%} of the episodes, which then taught nothing",
        "Look at the trajectories without a reward: each has the cause and its line. Mend the reward, or let "
        "it give 0 to what it cannot read",
    )


def slower(window: Window) -> Said | None:
    before, now = (_seconds(lines) for lines in (window.first, window.last))
    if window.steps < HOLLOW_STEPS or not before or now <= SLOWER * before:
        return None
    replies = window.moved("rollouts/tokens_per_turn")
    longer = replies is not None and replies[1] > RISE * replies[0] + replies[0]
    return Said(
        f"a step takes {now:.0f} s, and took {before:.0f} s at first",
        "Replies have grown longer, which is why: see whether they should"
        if longer
        else "See in Time by phase what takes it: longer contexts, a slow tool or judge, or a busy machine",
    )


def _seconds(lines: Sequence[Line]) -> float:
    """The mean of a step's phases together."""
    return statistics.fmean(
        sum(value for name, value in line.items() if name.startswith("seconds/") and value) for line in lines
    )

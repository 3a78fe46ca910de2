"""What the contract tests of rewards let them score, and how they read a score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from grpo_sdk.messages import Message, assistant, tool_call, tool_result, user
from grpo_sdk.rewards import RewardResult, Score
from grpo_sdk.testing.checks import require
from grpo_sdk.testing.trajectories import make_trajectory
from grpo_sdk.trajectory import Task, Trajectory

LOOKUP = tool_call("lookup", '{"id": "7"}', "call_1")


def samples(data: Mapping[str, Any]) -> list[Trajectory]:
    """Ordinary trajectories of one task with ``data``."""
    outcome = {"success": True, "score": 0.5}
    task = Task("task-0", deepcopy(dict(data)))
    dialogue = [
        user("Where is my order?"),
        assistant("", [LOOKUP]),
        tool_result(LOOKUP, '{"status": "shipped"}'),
        assistant("Thank you for waiting. Your order was shipped today."),
        user("Good, thanks."),
        assistant("You're welcome! Is there anything else that I can do?"),
    ]
    sorry = "I am sorry about that. Let me check it for you right away."
    return [
        make_trajectory(dialogue, outcome=outcome, task=task),
        make_trajectory(sorry, outcome=outcome, task=task, sample=1),
        make_trajectory("no", outcome={"success": False, "score": 0.0}, task=task, sample=2),
    ]


def odd_samples(data: Mapping[str, Any]) -> dict[str, Trajectory]:
    """What a policy in training may say, by what is odd about it."""
    outcome = {"success": False, "score": 0.0}
    conversations: dict[str, list[Message]] = {
        "no messages": [],
        "no answer": [user("Hello?")],
        "an empty answer": [user("Hello?"), assistant("")],
        "only a tool call": [user("Hello?"), assistant("", [LOOKUP]), tool_result(LOOKUP, "7")],
        "only spaces": [user("Hello?"), assistant(" \n\t ")],
        "only punctuation": [user("Hello?"), assistant("?!… --- ...")],
        "emoji and other scripts": [user("Hello?"), assistant("👋🏽 你好 مرحبا \u202e\ufeff\x00")],
        "a very long answer": [user("Hello?"), assistant("I will check your order. " * 20_000)],
        "a long word": [user("Hello?"), assistant("a" * 200_000)],
    }
    return {
        name: make_trajectory(
            said,
            outcome=outcome,
            environment_reward=0.0,
            task=Task("task-0", deepcopy(dict(data))),
            sample=number,
        )
        for number, (name, said) in enumerate(conversations.items())
    }


def raised(problem: Exception, what: str, data: Mapping[str, Any]) -> AssertionError:
    """The failure of a reward that raises."""
    hint = (
        ""
        if data
        else '. If it reads the task, set in the test what it reads, such as data = {"answer": "4"}'
    )
    return AssertionError(f"{what}: it raised {problem!r}; return a low score{hint}")


def value_of(score: Score, what: str) -> float:
    """The number of ``score``; fails if the host would refuse it."""
    value = score.value if isinstance(score, RewardResult) else score
    require(
        isinstance(value, int | float) and not isinstance(value, bool),
        f"{what}: the score is {value!r}, a {type(value).__name__}. Return a float or a RewardResult.",
    )
    require(math.isfinite(value), f"{what}: the score is {value}. Return a finite number in every case.")
    if isinstance(score, RewardResult):
        for name, part in score.parts.items():
            require(
                isinstance(name, str) and math.isfinite(part),
                f"{what}: the part {name!r} is {part!r}. Parts are named finite numbers.",
            )
        require(isinstance(score.explanation, str), f"{what}: the explanation must be a string.")
    return float(value)

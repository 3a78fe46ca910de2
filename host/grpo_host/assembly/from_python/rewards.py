"""Reward objects and plain functions as the weighted rewards of a run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from grpo_host.rollouts.scoring import WeightedReward
from grpo_sdk.errors import ConfigError
from grpo_sdk.rewards import EnvironmentReward, FunctionReward, GroupReward, Reward
from grpo_sdk.trajectory import Trajectory

KINDS = "a Reward, a GroupReward, a list of them, or a function of (trajectory) or of (turns, context)"


def as_rewards(given: object, *, steps_are_rewarded: bool = False) -> list[WeightedReward]:
    """What ``given`` stands for, each with its own ``weight`` (1.0 if it has none).

    None: the environment's own reward. With ``steps_are_rewarded`` the environment's reward is
    always among them, named ``environment``; beside others it weighs nothing unless one of them is an
    ``EnvironmentReward``. Raises ``ConfigError`` if ``given`` is nothing that scores.
    """
    several = isinstance(given, Sequence) and not isinstance(given, str)
    items: list[Any] = list(given) if several else [given]  # type: ignore[call-overload]
    if given is None:
        items = [EnvironmentReward()] if steps_are_rewarded else []
    elif steps_are_rewarded and not any(isinstance(item, EnvironmentReward) for item in items):
        items.append(EnvironmentReward(weight=0.0))
    if not items:
        raise ConfigError(f"reward_function: nothing to score with. Give {KINDS}")
    made: list[WeightedReward] = []
    for item in items:
        name = _free(_name(item), [other.name for other in made])
        made.append(WeightedReward(name, _reward(item), _weight(item, name)))
    if not any(item.weight for item in made):
        raise ConfigError("reward_function: all weights are 0: there is nothing to learn. Raise one")
    return made


def _reward(item: Any) -> Reward | GroupReward:
    if isinstance(item, Reward | GroupReward):
        return item
    if not callable(item) or isinstance(item, type):
        raise ConfigError(f"reward_function: {item!r:.80} does not score. Give {KINDS}")
    arguments = _positional(item)
    if arguments == 1:
        return FunctionReward(item)
    if arguments == 2:
        return FunctionReward(_of_turns(item))
    raise ConfigError(f"reward_function: {_name(item)} takes {arguments} positional arguments. Give {KINDS}")


def _of_turns(function: Callable[..., Any]) -> Callable[[Trajectory], Any]:
    """A function of what was said, and of what is known about it."""

    def score(trajectory: Trajectory) -> Any:
        turns = [m for m in trajectory.messages if m["role"] != "system"]
        context = {"task": trajectory.task.id, **trajectory.task.data, **trajectory.outcome}
        if trajectory.environment_reward is not None:
            context["environment_reward"] = trajectory.environment_reward
        return function(turns, context)

    return score


def _positional(function: Callable[..., Any]) -> int:
    """How many positional arguments it must be given, or takes at all if it needs none."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = [p for p in inspect.signature(function).parameters.values() if p.kind in kinds]
    except (TypeError, ValueError):  # of a built-in, which says nothing
        return 1
    needed = [p for p in parameters if p.default is inspect.Parameter.empty]
    return len(needed) or len(parameters)


def _weight(item: Any, name: str) -> float:
    weight = getattr(item, "weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ConfigError(f"reward_function: the weight of {name} is {weight!r:.40}. Give a number")
    return float(weight)


def _name(item: Any) -> str:
    if isinstance(item, EnvironmentReward):
        return "environment"
    if isinstance(item, FunctionReward):
        item = item.function
    name = getattr(item, "name", None) or getattr(item, "__name__", None) or type(item).__name__
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", str(name)).strip("_").lower()
    return plain.removesuffix("_function").removesuffix("_reward") or "reward"


def _free(name: str, taken: Sequence[str]) -> str:
    number = 2
    free = name
    while free in taken:
        free = f"{name}_{number}"
        number += 1
    return free

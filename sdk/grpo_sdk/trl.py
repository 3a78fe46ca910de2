"""What was written for TRL's ``GRPOTrainer``, used unchanged: reward functions and environment classes.

Source: docs of TRL 1.16, ``reward_funcs`` and ``environment_factory`` of ``GRPOTrainer``.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from grpo_sdk.blocking import call_blocking, settled
from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.messages import Message, as_messages
from grpo_sdk.rewards import GroupReward
from grpo_sdk.tools import ToolLike
from grpo_sdk.trajectory import Task, Trajectory

TrlRewardFunction = Callable[..., "Sequence[float | None] | Awaitable[Sequence[float | None]]"]

_GIVEN = ("prompts", "completions", "completion_ids")
_TRAINERS = ("trainer_state", "log_extra", "log_metric", "environments")


def is_trl_reward(function: object) -> bool:
    """Whether ``function`` looks like a reward function of TRL: it takes ``completions`` or their ids.

    It may be an object that is called, such as what ``trl.rewards.get_soft_overlong_punishment`` gives.
    """
    if not callable(function) or inspect.isclass(function):
        return False
    taken = inspect.signature(function).parameters
    return "completions" in taken or "completion_ids" in taken


class TrlReward(GroupReward):
    """A reward function of TRL, ``(prompts, completions, **columns) -> scores``.

    It is given the group's conversations as lists of messages: ``prompts`` up to the policy's first word,
    ``completions`` from there on; ``completion_ids`` as sampled; and each value of the tasks' data as a list.
    What TRL's trainer gives besides (``trainer_state``, ``log_extra``, ``log_metric``, ``environments``) is
    not there: give these parameters a default.
    """

    needs_help = (
        f"A reward function of TRL is given {', '.join(_GIVEN)} and columns of the tasks, not "
        f"{', '.join(_TRAINERS)}: give a parameter that may be missing a default"
    )
    """What to do if no task has what it needs."""

    def __init__(self, function: TrlRewardFunction) -> None:
        self.function = function
        parameters = inspect.signature(function).parameters.values()
        self._takes = {parameter.name for parameter in parameters}
        self._takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        many = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        needed = [p.name for p in parameters if p.default is p.empty and p.kind not in many]
        self.needs = tuple(name for name in needed if name not in _GIVEN)
        """The values that each task's data must have."""

    async def score_group(self, trajectories: Sequence[Trajectory]) -> Sequence[float]:
        """Raises ``ValueError`` if the function gives None: here, each reward scores each trajectory."""
        split = [_prompt_length(item) for item in trajectories]
        names = dict.fromkeys(name for item in trajectories for name in item.task.data)
        given: dict[str, Any] = {
            **{name: [item.task.data.get(name) for item in trajectories] for name in names},
            "prompts": [item.messages[:cut] for item, cut in zip(trajectories, split, strict=True)],
            "completions": [item.messages[cut:] for item, cut in zip(trajectories, split, strict=True)],
            "completion_ids": [_sampled_ids(item) for item in trajectories],
        }
        taken = {name: value for name, value in given.items() if self._takes_all or name in self._takes}
        scores = await settled(await call_blocking(self.function, **taken))
        found = [float(score) for score in scores if score is not None]
        if len(found) < len(scores):
            raise ValueError(f"{_name(self.function)} gave None: it is to score every completion")
        return found


def trl_reward(function: TrlRewardFunction) -> Callable[[], TrlReward]:
    """Make a reward function of TRL a reward factory, which has no options."""

    def factory() -> TrlReward:
        return TrlReward(function)

    factory.__name__ = factory.__qualname__ = _name(function)
    factory.__doc__ = function.__doc__
    factory.__module__ = function.__module__
    factory.__wrapped__ = function  # type: ignore[attr-defined]
    factory.__signature__ = inspect.Signature(return_annotation=TrlReward)  # type: ignore[attr-defined]
    return factory


def _name(function: TrlRewardFunction) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _prompt_length(trajectory: Trajectory) -> int:
    roles = [message["role"] for message in trajectory.messages]
    return roles.index("assistant") if "assistant" in roles else len(roles)


def _sampled_ids(trajectory: Trajectory) -> list[int]:
    sequences = trajectory.ledger.sequences if trajectory.ledger else []
    return [i for item in sequences for i, sampled in zip(item.ids, item.mask, strict=True) if sampled]


class TrlEnvironment(Environment):
    """Gives an environment class of TRL its tasks: ``made`` is one instance, ``tasks`` come from ``source``.

    Its public methods are the agent's tools; what ``reset(**columns)`` returns is added to the task's last
    message. An episode ends with the agent's first message without a tool call, and its reward is what
    ``get_reward()`` gives, if there is one (see the reward ``environment``).
    """

    def __init__(self, made: Any, source: Environment) -> None:
        self._made = made
        self._source = source

    def tasks(self, split: str) -> Sequence[Task]:
        return self._source.tasks(split)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        messages = [*(await self._source.reset(task, seed=seed)).messages]
        said = await settled(await call_blocking(self._made.reset, **task.data))
        if said is not None:
            if not isinstance(said, str):
                raise ValueError(f"reset() gave {said!r:.80}; only a text can be shown to the model here")
            messages[-1] = _with_text(messages[-1], said)
        return Observation(messages)

    def tools(self) -> Sequence[ToolLike]:
        members = inspect.getmembers(type(self._made), inspect.isfunction)
        return [
            getattr(self._made, name)
            for name, _ in members
            if not name.startswith("_") and name not in ("reset", "get_reward")
        ]

    async def step(self, action: Message) -> StepResult:
        get_reward = getattr(self._made, "get_reward", None)
        if get_reward is None:
            return StepResult(done=True)
        return StepResult(done=True, reward=float(await settled(await call_blocking(get_reward))))


def _with_text(message: Mapping[str, Any], text: str) -> Message:
    return as_messages([{**message, "content": message["content"] + text}])[0]

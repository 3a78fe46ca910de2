"""Rewards: a number for a trajectory, or for each trajectory of a group."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, get_type_hints, overload

from grpo_sdk.blocking import call_blocking, settled
from grpo_sdk.trajectory import Task, Trajectory

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class RewardResult:
    """A score with its named parts and an explanation for a person."""

    value: float
    """A finite number; the host refuses any other. Higher is better."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """What it is made of, by name; for metrics and reports, not added up."""
    explanation: str = ""
    """A sentence for a person."""


Score: TypeAlias = "float | RewardResult"
"""What a reward gives: a finite number, or one with parts and an explanation."""


class Reward(ABC):
    """Scores one trajectory at a time. Sync or async; may raise: the host records the failure."""

    @abstractmethod
    def score(self, trajectory: Trajectory) -> Score | Awaitable[Score]:
        """A finite number, or a result. Higher is better; [0, 1] by convention."""

    def close(self) -> None:
        """Release what the reward holds. Called once, at the end of the run."""


class GroupReward(ABC):
    """Scores the trajectories of one task against each other."""

    @abstractmethod
    def score_group(self, trajectories: Sequence[Trajectory]) -> Sequence[Score] | Awaitable[Sequence[Score]]:
        """One score for each trajectory, in their order. May raise: then the whole group has no score."""

    def close(self) -> None:
        """Release what the reward holds. Called once, at the end of the run."""


class EnvironmentReward(Reward):
    """The sum of the rewards that the environment gave for the steps of an episode."""

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight

    def score(self, trajectory: Trajectory) -> RewardResult:
        """Raises ``ValueError`` if the environment gave none and the reward counts."""
        if trajectory.environment_reward is None and self.weight:
            raise ValueError(
                "the environment gave no reward: its step() is to return one, in StepResult.reward"
            )
        given = trajectory.environment_reward
        return RewardResult(given or 0.0, explanation="no reward" if given is None else f"given {given:g}")


async def score_messages(
    reward: Reward, messages: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None
) -> RewardResult:
    """Score a conversation from elsewhere with ``reward``; ``context`` becomes its task's data.

    A reward that is no coroutine runs in a thread. Raises ``ValueError`` if ``messages`` are no
    messages, and whatever the reward raises.
    """
    trajectory = Trajectory.of_messages(messages, context=context)
    result: Score = await settled(await call_blocking(reward.score, trajectory))
    return result if isinstance(result, RewardResult) else RewardResult(float(result))


RewardFunction = Callable[..., "Score | Awaitable[Score]"]


class FunctionReward(Reward):
    """A function as a reward: given the trajectory, values of its task by name, and options.

    See ``reward``. ``options`` are bound when the reward is made.
    """

    needs_help = "A parameter that is an option of agent.yaml stands after a *"
    """What to do if no task has what it needs."""

    def __init__(self, function: RewardFunction, **options: Any) -> None:
        self.function = function
        self.options = options
        self._columns = _columns(function)
        self.needs = tuple(column.name for column in self._columns if column.default is column.empty)
        """The values that each task's data must have."""

    def score(self, trajectory: Trajectory) -> Score | Awaitable[Score]:
        """Raises ``ValueError`` if the task lacks a value that the function needs, or has another type."""
        columns = {column.name: _value(column, trajectory.task) for column in self._columns}
        return self.function(trajectory, **columns, **self.options)


class CoroutineReward(FunctionReward):
    """One whose function is a coroutine, and so needs no thread."""

    async def score(self, trajectory: Trajectory) -> Score:
        """As the function's."""
        return await settled(super().score(trajectory))


def _columns(function: RewardFunction) -> list[inspect.Parameter]:
    """The parameters that are values of the task, with their types: after the trajectory, before ``*``."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # an annotation is any expression
        hints = {}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [p for p in inspect.signature(function).parameters.values() if p.kind in positional]
    return [parameter.replace(annotation=hints.get(parameter.name, Any)) for parameter in found[1:]]


def _value(column: inspect.Parameter, task: Task) -> Any:
    from pydantic import ValidationError

    if column.name not in task.data:
        if column.default is not column.empty:
            return column.default
        there = ", ".join(sorted(task.data)) or "nothing"
        raise ValueError(
            f'the task "{task.id}" has no "{column.name}", which the reward asks for; its data are: {there}. '
            f"{FunctionReward.needs_help}"
        )
    try:
        return _type(column.annotation).validate_python(task.data[column.name])
    except ValidationError as problem:
        said = problem.errors(include_url=False)[0]["msg"]
        raise ValueError(
            f'the task "{task.id}": its "{column.name}" is {task.data[column.name]!r:.80}: {said}'
        ) from None


@lru_cache(maxsize=256)
def _type(annotation: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    # A CSV file has no numbers, and a column of numbers may be wanted as text.
    config = ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True)
    try:
        return TypeAdapter(annotation, config=config)
    except TypeError:  # a type that has a configuration of its own
        return TypeAdapter(annotation)


@overload
def reward(function: RewardFunction, /) -> Callable[..., FunctionReward]: ...
@overload
def reward(*, name: str | None = None) -> Callable[[RewardFunction], Callable[..., FunctionReward]]: ...
def reward(function: RewardFunction | None = None, /, *, name: str | None = None) -> Any:
    """Make a function of a trajectory a reward factory.

    Parameters after the trajectory are values of its task (``trajectory.task.data``) by their names, such as
    columns of a dataset, converted to their types. Parameters after a ``*`` are options of agent.yaml:

        @reward
        def close_to(trajectory, answer: float, *, tolerance: float = 0.0) -> float:
            return float(abs(float(trajectory.final_text) - answer) <= tolerance)
    """

    def decorate(function: RewardFunction) -> Callable[..., FunctionReward]:
        signature = inspect.signature(function)
        made = CoroutineReward if inspect.iscoroutinefunction(function) else FunctionReward

        def factory(**options: Any) -> FunctionReward:
            return made(function, **options)

        factory.__name__ = factory.__qualname__ = name or function.__name__
        factory.__doc__ = function.__doc__
        factory.__module__ = function.__module__
        # The host reads options, their types and defaults from the signature.
        named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
        factory.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[p for p in signature.parameters.values() if p.kind in named],
            return_annotation=FunctionReward,
        )
        factory.__wrapped__ = function  # type: ignore[attr-defined]
        return factory

    return decorate if function is None else decorate(function)

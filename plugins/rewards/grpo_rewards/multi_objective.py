"""Combine several rewards: scale each to [0, 1], weigh it, and explain it."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from grpo_sdk.rewards import FunctionReward, Reward, RewardResult, Score
from grpo_sdk.trajectory import Trajectory


class ComponentError(RuntimeError):
    """A component could not score, so the whole score fails: a sum without a part would be another reward."""


class Component(Reward):
    """A reward as one objective of several: its name, its weight and the range that it scores in.

    A value counts as its place in the range: ``(value - low) / (high - low)``, clipped to [0, 1]. With
    ``low`` above ``high``, less is better. A ``gate`` also multiplies the whole score: what it finds
    worthless is worth nothing, however good the rest is.
    """

    def __init__(
        self,
        name: str,
        reward: Reward | Callable[[Trajectory], Score | Awaitable[Score]],
        weight: float = 1.0,
        *,
        low: float = 0.0,
        high: float = 1.0,
        gate: bool = False,
    ) -> None:
        """``reward`` may be a function of a trajectory, sync or async.

        Raises ``ValueError`` for a weight that is negative or no number, or an empty range.
        """
        if not isinstance(reward, Reward) and not callable(reward):
            raise TypeError(f"component {name}: {type(reward).__name__} is no Reward and no function")
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(
                f"component {name}: its weight is {weight}; weights are 0 or more. "
                "Where less is better, set low above high"
            )
        if not (math.isfinite(low) and math.isfinite(high)) or low == high:
            raise ValueError(f"component {name}: its range is {low} to {high}; it must have two finite ends")
        self.name = name
        self.reward: Reward = reward if isinstance(reward, Reward) else FunctionReward(reward)
        self.weight = float(weight)
        self.low, self.high = low, high
        self.gate = gate

    def score(self, trajectory: Trajectory) -> RewardResult | Awaitable[RewardResult]:
        """The reward's own score, scaled to [0, 1]. Raises ``ComponentError``."""
        score = self.begin(trajectory)
        return self.finish(score) if inspect.isawaitable(score) else self.normal(score)

    def begin(self, trajectory: Trajectory) -> Any:
        """What the reward answers: a score, or an awaitable of one. Raises ``ComponentError``."""
        try:
            return self.reward.score(trajectory)
        except Exception as problem:
            raise self._failed(problem) from problem

    async def finish(self, score: Awaitable[Score]) -> RewardResult:
        """The awaited ``score``, scaled to [0, 1]. Raises ``ComponentError``."""
        try:
            awaited = await score
        except Exception as problem:
            raise self._failed(problem) from problem
        return self.normal(awaited)

    def normal(self, score: Any) -> RewardResult:
        """``score`` scaled to [0, 1]. Raises ``ComponentError`` if it is no finite number."""
        result = score if isinstance(score, RewardResult) else RewardResult(score)
        value = result.value
        if isinstance(value, bool | str | bytes) or value is None or not math.isfinite(float(value)):
            raise self._failed(ValueError(f"a score is a finite number, not {value!r:.80}"))
        share = (float(value) - self.low) / (self.high - self.low)
        return RewardResult(min(1.0, max(0.0, share)), result.parts, result.explanation)

    def _failed(self, problem: Exception) -> ComponentError:
        return ComponentError(f"component {self.name}: {type(problem).__name__}: {problem}")

    def close(self) -> None:
        self.reward.close()


class MultiObjectiveReward(Reward):
    """The weighted mean of its components, each in [0, 1], times the values of those that are gates.

    Weights need not sum to 1: they are divided by their sum.

    ``parts`` has each component's value; the explanation has its share and its own words. ``weight``
    is for those who combine this reward with others: it does not change the score.
    """

    def __init__(self, components: Sequence[Component], *, weight: float = 1.0) -> None:
        """Raises ``ValueError`` if two components have one name, or none has a weight."""
        for component in [components] if isinstance(components, str) else components:
            if not isinstance(component, Component):
                raise TypeError(
                    f"components: {component!r:.60} is no Component; give Component(name, reward)"
                )
        names = [component.name for component in components]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two components are called {twice}; give one of them another name")
        total = sum(component.weight for component in components)
        if not total:
            raise ValueError("a multi-objective reward needs a component with a weight above 0")
        if not math.isfinite(weight):
            raise ValueError(f"the weight is {weight}; it must be a number")
        self.components = tuple(components)
        self.shares = {component.name: component.weight / total for component in components}
        """Name → weight divided by the sum of weights."""
        self.weight = float(weight)

    def score(self, trajectory: Trajectory) -> RewardResult | Awaitable[RewardResult]:
        """A coroutine if a component is one, else the result. Raises ``ComponentError``."""
        begun: list[Any] = []
        try:
            for component in self.components:
                score = component.begin(trajectory)
                begun.append(score if inspect.isawaitable(score) else component.normal(score))
        except ComponentError:
            for score in begun:
                if inspect.iscoroutine(score):
                    score.close()  # nobody will await it
            raise
        return self._finish(begun) if any(map(inspect.isawaitable, begun)) else self._total(begun)

    async def _finish(self, begun: Sequence[Any]) -> RewardResult:
        awaited = [
            component.finish(score)
            for component, score in zip(self.components, begun, strict=True)
            if inspect.isawaitable(score)
        ]
        found = []
        for result in await asyncio.gather(*awaited, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            found.append(result)
        later = iter(found)
        return self._total([next(later) if inspect.isawaitable(score) else score for score in begun])

    def _total(self, results: Sequence[RewardResult]) -> RewardResult:
        value = 0.0
        gates = 1.0
        parts: dict[str, float] = {}
        lines = []
        for component, result in zip(self.components, results, strict=True):
            share = self.shares[component.name]
            value += share * result.value
            gates *= result.value if component.gate else 1.0
            parts[component.name] = result.value
            head = f"{component.name} {result.value:.2f} x {share:.2f}{' and gate' * component.gate}"
            lines.append(f"{head}: {result.explanation}".rstrip(": "))
        # The sum of shares may be a rounding error above 1.
        return RewardResult(min(1.0, value) * gates, parts, "\n".join(lines))

    def close(self) -> None:
        for component in self.components:
            component.close()

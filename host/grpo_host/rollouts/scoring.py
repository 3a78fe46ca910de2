"""Rewards of a run: each scored within its time limit, combined by weight, failures recorded."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from grpo_host.plugins.failures import described, log_once, pass_interrupts
from grpo_host.rollouts.asking import ASKING_FOR
from grpo_sdk.altered import altered
from grpo_sdk.backend import Backend
from grpo_sdk.blocking import call_blocking
from grpo_sdk.deadline import Deadline, Leavable
from grpo_sdk.rewards import GroupReward, Reward, RewardResult
from grpo_sdk.trajectory import RewardRecord, Trajectory

logger = logging.getLogger(__name__)

T = TypeVar("T")

LARGEST = 1e15
"""The largest score, weighted or not: of larger ones float32, in which groups are compared, cannot hold the
squares that a standard deviation is made of."""


@dataclass(frozen=True, slots=True)
class WeightedReward:
    """A reward as agent.yaml names it."""

    name: str
    reward: Reward | GroupReward
    weight: float = 1.0
    seconds: float = 30.0
    """Time limit of one score, or of one group."""
    backends: tuple[Backend, ...] = ()
    """Made for this reward alone, such as its judge; whoever closes the reward closes them."""
    environments: frozenset[str] = frozenset()
    """Whose episodes it scores; empty: all."""


class RewardSet:
    """Scores groups of trajectories with several rewards."""

    def __init__(self, rewards: Sequence[WeightedReward], *, concurrency: int = 32) -> None:
        self.rewards = list(rewards)
        self._gate = asyncio.Semaphore(concurrency)

    async def score(self, group: Sequence[Trajectory]) -> list[Trajectory]:
        """``group`` with rewards. The trajectories of one task, in order.

        A failed episode is not scored. A trajectory that one reward failed to score has the error
        on that reward's record and ``reward`` None: a sum without a part would be another reward.
        """
        alive = [index for index, item in enumerate(group) if item.status != "failed"]
        scored = [group[index] for index in alive]
        name = group[0].environment if group else ""
        rewards = [item for item in self.rewards if not item.environments or name in item.environments]
        columns = await _side_by_side([self._column(item, scored) for item in rewards])
        result = list(group)
        for row, index in enumerate(alive):
            records = {item.name: column[row] for item, column in zip(rewards, columns, strict=True)}
            result[index] = altered(group[index], rewards=records, reward=_total(records))
        return result

    async def _column(self, item: WeightedReward, group: Sequence[Trajectory]) -> list[RewardRecord]:
        if not group:
            return []
        if isinstance(item.reward, GroupReward):
            return await self._group(item, item.reward, group)
        return await _side_by_side([self._one(item, item.reward, t) for t in group])

    async def _one(self, item: WeightedReward, reward: Reward, trajectory: Trajectory) -> RewardRecord:
        who = f'reward "{item.name}"'  # noqa: F841 - LoopWatch names it
        ASKING_FOR.set(trajectory.id)
        try:
            async with self._gate:
                return _record(item, await _limited(item.seconds, reward.score, trajectory))
        except BaseException as problem:
            pass_interrupts(problem)
            return _failure(item, problem)

    async def _group(
        self, item: WeightedReward, reward: GroupReward, group: Sequence[Trajectory]
    ) -> list[RewardRecord]:
        who = f'reward "{item.name}"'  # noqa: F841 - LoopWatch names it
        ASKING_FOR.set(group[0].id)
        try:
            async with self._gate:
                scores = await _limited(item.seconds, reward.score_group, group)
            if isinstance(scores, str | dict) or not isinstance(scores, Iterable):
                raise TypeError(f"score_group() returns a list of scores, not {type(scores).__name__}")
            scores = list(scores)
            if len(scores) != len(group):
                raise ValueError(f"{len(scores)} scores for {len(group)} trajectories")
        except BaseException as problem:
            pass_interrupts(problem)
            return [_failure(item, problem)] * len(group)
        records = []
        for score in scores:
            try:
                records.append(_record(item, score))
            except Exception as problem:
                records.append(_failure(item, problem))
        return records

    def close(self) -> None:
        """Close every reward, also after one that fails to."""
        for item in self.rewards:
            try:
                left: Any = item.reward.close()
                if inspect.iscoroutine(left):
                    left.close()
                    raise TypeError('it is a coroutine, for which nobody waits; write "def close"')
            except BaseException as problem:  # plugin code
                pass_interrupts(problem)
                logger.warning('reward "%s": close(): %s', item.name, described(problem))

    @property
    def backends(self) -> list[Backend]:
        """Those that rewards have for themselves."""
        return [backend for item in self.rewards for backend in item.backends]


async def _side_by_side(asked: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results, in order. One alone needs no task of its own, which costs more than many a reward."""
    return [await asked[0]] if len(asked) == 1 else list(await asyncio.gather(*asked))


async def _limited(seconds: float, function: Callable[..., Any], argument: Any) -> Any:
    """Call a sync or async ``function`` within ``seconds``; a sync one in a thread of its own."""
    limit = Deadline(seconds)
    try:
        with limit:
            if inspect.iscoroutinefunction(function):
                return await Leavable(function(argument))
            value = await call_blocking(function, argument)
            return await Leavable(value) if inspect.isawaitable(value) else value
    except TimeoutError:
        if not limit.expired():
            raise  # the reward's own
        raise TimeoutError(f"no score within {seconds:g} s") from None


def _record(item: WeightedReward, score: Any) -> RewardRecord:
    parts: dict[str, float] = {}
    explanation = ""
    if isinstance(score, RewardResult):
        parts = {
            str(name): _number(part, f'the part "{name}" of a score') for name, part in score.parts.items()
        }
        score, explanation = score.value, str(score.explanation)
    value = _number(score)
    largest = max(abs(value), abs(item.weight * value))
    if largest > LARGEST:
        raise ValueError(f"a score, also times its weight, is at most {LARGEST:g} in size, not {largest:g}")
    return RewardRecord(value, item.weight, parts, explanation)


def _number(value: Any, what: str = "a score") -> float:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} is a number, not {value!r:.80}") from None
    if not math.isfinite(number):
        raise ValueError(f"{what} is finite, not {number}")
    return number


def _failure(item: WeightedReward, problem: BaseException) -> RewardRecord:
    error = described(problem, 400)
    log_once(f"reward {item.name}", f'reward "{item.name}": {error}', problem)
    return RewardRecord(None, item.weight, error=error)


def _total(records: dict[str, RewardRecord]) -> float | None:
    total = 0.0
    for record in records.values():
        if record.value is None:
            return None
        total += record.weight * record.value
    return total

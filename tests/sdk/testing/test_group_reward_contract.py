"""The contract of group rewards names each of these mistakes, and says how to mend it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any

import pytest

from grpo_sdk import GroupReward
from grpo_sdk.testing import GroupRewardContract


def lengths(trajectories: Any) -> list[float]:
    return [float(len(trajectory.policy_text)) for trajectory in trajectories]


class Shortest(GroupReward):
    """Makes no mistake."""

    def score_group(self, trajectories: Any) -> Any:
        found = lengths(trajectories)
        return [1.0 - value / (max(found) or 1.0) for value in found]


class Sorted(Shortest):
    def score_group(self, trajectories: Any) -> Any:
        return sorted(super().score_group(trajectories))


class SortsInPlace(Shortest):
    def score_group(self, trajectories: Any) -> Any:
        trajectories.sort(key=lambda trajectory: -len(trajectory.policy_text))
        return super().score_group(trajectories)


class Counting(Shortest):
    calls = 0

    def score_group(self, trajectories: Any) -> Any:
        self.calls += 1
        return [value / self.calls for value in super().score_group(trajectories)]


class ById(Shortest):
    def __init__(self) -> None:
        self.known: dict[str, float] = {}

    def score_group(self, trajectories: Any) -> Any:
        scores = super().score_group(trajectories)
        return [self.known.setdefault(t.id, score) for t, score in zip(trajectories, scores, strict=True)]


class Lazy(Shortest):
    def score_group(self, trajectories: Any) -> Any:
        return (score for score in super().score_group(trajectories))


class LastAsked(Shortest):
    async def score_group(self, trajectories: Any) -> Any:
        self.group = trajectories
        await asyncio.sleep(0)
        return super().score_group(self.group)[: len(trajectories)] + [0.0] * (
            len(trajectories) - len(self.group)
        )


class Seeding(Shortest):
    def score_group(self, trajectories: Any) -> Any:
        random.seed(0)
        return super().score_group(trajectories)


class Blocking(Shortest):
    async def score_group(self, trajectories: Any) -> Any:
        time.sleep(0.04)  # noqa: ASYNC251
        return super().score_group(trajectories)


class Stubborn(Shortest):
    async def score_group(self, trajectories: Any) -> Any:
        with contextlib.suppress(BaseException):
            await asyncio.sleep(0.05)
        return super().score_group(trajectories)


class Large(Shortest):
    def score_group(self, trajectories: Any) -> Any:
        return lengths(trajectories)


@pytest.mark.parametrize(
    ("mistake", "test", "message"),
    [
        (Sorted, "test_scores_follow_their_trajectories", "follow the place in the group"),
        (SortsInPlace, "test_scoring_changes_nothing", "changed the order of the group: sort a copy"),
        (Counting, "test_the_same_group_gets_the_same_scores", "the same group got different scores"),
        (ById, "test_groups_of_the_same_ids_are_scored_each_on_their_own", "by the trajectory's id"),
        (Lazy, "test_every_trajectory_gets_a_finite_score", "returned a generator: return a list"),
        (LastAsked, "test_many_groups_may_be_scored_at_once", "where several groups are scored at once"),
        (Seeding, "test_global_random_generators_are_not_seeded", "the global generator of random"),
        (Blocking, "test_the_event_loop_is_not_blocked", "score_group() blocked the event loop for 0."),
        (Stubborn, "test_a_time_limit_ends_it", "score_group() catches its cancellation and goes on"),
        (Large, "test_odd_trajectories_get_a_score", "is outside the bounds 0.0 to 1.0"),
    ],
)
def test_each_mistake_is_named_with_its_mending(mistake: Any, test: str, message: str) -> None:
    class Contract(GroupRewardContract):
        blocking_seconds = 0.02
        bounds = (0.0, 1.0)

        def make(self) -> GroupReward:
            made: GroupReward = mistake()
            return made

    with pytest.raises(AssertionError) as raised:
        getattr(Contract(), test)()
    assert message in str(raised.value)
    assert "\nFix: " in str(raised.value)


class TestOneWithoutAMistake(GroupRewardContract):
    bounds = (0.0, 1.0)

    def make(self) -> GroupReward:
        return Shortest()

"""Contract tests of group rewards: inherit, say how to make yours, run pytest.

from grpo_sdk.testing import GroupRewardContract

class TestShortest(GroupRewardContract):
    def make(self):
        return Shortest()
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from grpo_sdk.rewards import GroupReward, Score
from grpo_sdk.testing.checks import close_plainly, require, skip
from grpo_sdk.testing.contract import Contract, called, timed
from grpo_sdk.testing.reward_samples import odd_samples, raised, samples, value_of
from grpo_sdk.testing.surroundings import seeded_generators
from grpo_sdk.trajectory import Trajectory


class GroupRewardContract(Contract):
    """What the host relies on in every ``GroupReward``."""

    data: ClassVar[Mapping[str, Any]] = {}
    """``trajectory.task.data`` of the trajectories here: columns that the reward reads, such as an answer."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest score; None if there is none."""
    deterministic: bool = True
    """The same group gets the same scores; False for a sampling judge."""

    def make(self) -> GroupReward:
        """Make a new instance of the group reward under test."""
        raise NotImplementedError(f"{type(self).__name__} needs def make(self) returning the reward")

    def group(self) -> Sequence[Trajectory]:
        """Trajectories of one task; override if yours need something special."""
        return samples(self.data)

    def scores(self, reward: GroupReward, trajectories: Sequence[Trajectory]) -> list[float]:
        """The values that ``reward`` gives, called as the host does."""
        return self.run(self._scores(reward, trajectories))

    async def _scores(self, reward: GroupReward, trajectories: Sequence[Trajectory]) -> list[float]:
        who = type(reward).__name__
        try:
            given: Any = await called(reward.score_group, trajectories)
        except Exception as problem:
            raise raised(problem, who, self.data) from problem
        require(
            isinstance(given, Sequence) and not isinstance(given, str),
            f"{who}: score_group returned a {type(given).__name__}: return a list of scores, in order",
        )
        found: Sequence[Score] = given
        require(
            len(found) == len(trajectories),
            f"{len(found)} scores for {len(trajectories)} trajectories: return one each, in order",
        )
        values = [value_of(score, f"{who}, index {i}") for i, score in enumerate(found)]
        if self.bounds is not None:
            low, high = self.bounds
            for value in values:
                require(low <= value <= high, f"the score {value} is outside the bounds {low} to {high}")
        return values

    def test_every_trajectory_gets_a_finite_score(self) -> None:
        """Fix: return one finite number or ``RewardResult`` for each trajectory, in their order."""
        self.scores(self.make(), self.group())

    def test_a_group_of_one_is_scored(self) -> None:
        """Fix: siblings that failed are left out, so a group may have one member: compare with nothing."""
        self.scores(self.make(), list(self.group())[:1])

    def test_identical_trajectories_are_scored(self) -> None:
        """Fix: a policy may say the same in every sample: guard divisions by a spread of zero."""
        self.scores(self.make(), [next(iter(self.group()))] * 4)

    def test_odd_trajectories_get_a_score(self) -> None:
        """Fix: a policy in training says nothing, or 200,000 characters: score that low, don't raise."""
        self.scores(self.make(), list(odd_samples(self.data).values()))

    def test_scores_follow_their_trajectories(self) -> None:
        """Fix: sort indices, not the group; give equals one score. Or set ``deterministic = False``."""
        if not self.deterministic:
            skip("the reward says that it is not deterministic")
        group = list(self.group())
        scores, backwards = (
            self.scores(self.make(), group),
            self.scores(self.make(), group[::-1])[::-1],
        )
        require(
            scores == backwards,
            f"the scores are {scores}, and {backwards} when the group comes in the other order: they follow "
            "the place in the group and not the trajectory",
        )

    def test_the_same_group_gets_the_same_scores(self) -> None:
        """Fix: keep no state between calls and use no randomness, or set ``deterministic = False``."""
        if not self.deterministic:
            skip("the reward says that it is not deterministic")
        reward, group = self.make(), list(self.group())
        first, second, another = (self.scores(r, group) for r in (reward, reward, self.make()))
        require(
            first == second == another, f"the same group got different scores: {first}, {second}, {another}"
        )

    def test_groups_of_the_same_ids_are_scored_each_on_their_own(self) -> None:
        """Fix: ids come again in the next phase and run: cache by what was said, such as ``final_text``."""
        if not self.deterministic:
            skip("the reward says that it is not deterministic")
        group = list(self.group())
        other = [
            replace(trajectory, messages=sibling.messages, outcome=sibling.outcome)
            for trajectory, sibling in zip(group, group[::-1], strict=True)
        ]
        reward = self.make()
        self.scores(reward, group)
        used, fresh = self.scores(reward, other), self.scores(self.make(), other)
        require(
            used == fresh,
            f"a group got {used} after another of its ids, and {fresh} from a new reward: scores are "
            "remembered by the trajectory's id",
        )

    def test_many_groups_may_be_scored_at_once(self) -> None:
        """Fix: the host scores in threads, or many coroutines at once: keep no state, or guard it."""
        if not self.deterministic:
            skip("the reward says that it is not deterministic")
        reward, group = self.make(), list(self.group())
        groups = [group, group[::-1], group[:1], group[1:]]
        expected = [self.scores(reward, one) for one in groups]

        async def at_once() -> list[list[float]]:
            return list(await asyncio.gather(*(self._scores(reward, one) for one in groups * 4)))

        require(self.run(at_once()) == expected * 4, "scores differ where several groups are scored at once")

    def test_scoring_changes_nothing(self) -> None:
        """Fix: work on copies: trajectories are also read by other rewards and written to disk."""
        first, *others = self.group()
        group = [*others, first]  # most groups come sorted, and a sort would change nothing
        ids = [trajectory.id for trajectory in group]
        before = [trajectory.to_json() for trajectory in group]
        self.scores(self.make(), group)
        require([t.id for t in group] == ids, "the reward changed the order of the group: sort a copy")
        require([t.to_json() for t in group] == before, "the reward changed the trajectories")

    def test_global_random_generators_are_not_seeded(self) -> None:
        """Fix: draw from a ``random.Random(seed)`` of your own; other plugins draw from the global one."""
        seeded = seeded_generators(lambda: self.scores(self.make(), self.group()))
        require(not seeded, f"the reward seeds the global generator of {' and '.join(seeded)}")

    def test_the_event_loop_is_not_blocked(self) -> None:
        """Fix: ``await`` what takes time, or make ``score_group`` no coroutine: then it runs in a thread."""

        async def play(steps: list[float]) -> None:
            await timed(called(self.make().score_group, self.group()), steps)

        self.require_unblocked(play, "score_group()")

    def test_a_time_limit_ends_it(self) -> None:
        """Fix: let ``asyncio.CancelledError`` pass: ``except Exception`` in place of ``except:``."""
        reward = self.make()
        if not inspect.iscoroutinefunction(reward.score_group):
            skip("score_group is no coroutine: nobody waits for its thread after the limit")
        self.require_cancellable(
            lambda within: within(called(reward.score_group, self.group())), "score_group()"
        )

    def test_close_may_be_called_twice(self) -> None:
        """Fix: let ``close`` check what is still open."""
        reward = self.make()
        close_plainly(reward.close)
        close_plainly(reward.close)

"""Contract tests of rewards: inherit, say how to make yours, run pytest.

from grpo_sdk.testing import RewardContract

class TestPoliteness(RewardContract):
    def make(self):
        return Politeness()
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from grpo_sdk.messages import Message, assistant, tool_result, user
from grpo_sdk.rewards import Reward, Score
from grpo_sdk.testing.checks import close_plainly, require, skip
from grpo_sdk.testing.contract import Contract, called, timed
from grpo_sdk.testing.reward_samples import LOOKUP, odd_samples, raised, samples, value_of
from grpo_sdk.testing.surroundings import seeded_generators
from grpo_sdk.trajectory import Trajectory


class RewardContract(Contract):
    """What the host relies on in every ``Reward``."""

    data: ClassVar[Mapping[str, Any]] = {}
    """``trajectory.task.data`` of the trajectories here: columns that the reward reads, such as an answer."""
    bounds: tuple[float, float] | None = (0.0, 1.0)
    """Lowest and highest score; None if there is none."""
    deterministic: bool = True
    """The same trajectory gets the same score; False for a sampling judge."""
    reads_other_messages: bool = False
    """Whether the score may depend on what tools and users said."""

    def make(self) -> Reward:
        """Make a new instance of the reward under test."""
        raise NotImplementedError(f"{type(self).__name__} needs def make(self) returning the reward")

    def samples(self) -> Sequence[Trajectory]:
        """Ordinary trajectories; override if yours need an outcome of another form."""
        return samples(self.data)

    def score(self, reward: Reward, trajectory: Trajectory) -> float:
        """The value that ``reward`` gives, called as the host does."""
        return self.run(self._score(reward, trajectory, trajectory.id))

    async def _score(self, reward: Reward, trajectory: Trajectory, name: str) -> float:
        what = f"{type(reward).__name__} on {name}"
        try:
            score: Score = await called(reward.score, trajectory)
        except Exception as problem:
            raise raised(problem, what, self.data) from problem
        return value_of(score, what)

    def test_is_a_reward(self) -> None:
        """Fix: inherit from ``Reward``, or decorate the function with ``@reward`` and call the result."""
        made = self.make()
        require(
            isinstance(made, Reward),
            f"make() returned a {type(made).__name__}, not a Reward: inherit from Reward, "
            "or use @reward and return function() (with the parentheses).",
        )

    def test_scores_are_finite_numbers_within_bounds(self) -> None:
        """Fix: clip the score, or set ``bounds`` to what it may be."""
        reward = self.make()
        for trajectory in self.samples():
            value = self.score(reward, trajectory)
            if self.bounds is not None:
                low, high = self.bounds
                require(low <= value <= high, f"the score {value} is outside the bounds {low} to {high}")

    def test_odd_trajectories_get_a_score(self) -> None:
        """Fix: a policy in training says nothing, or 200,000 characters: score that low, don't raise."""
        reward = self.make()
        for name, trajectory in odd_samples(self.data).items():
            value = self.run(self._score(reward, trajectory, name))
            if self.bounds is not None:
                require(self.bounds[0] <= value <= self.bounds[1], f"{value} on {name} is out of bounds")

    def test_the_same_trajectory_gets_the_same_score(self) -> None:
        """Fix: keep no state between calls and use no randomness, or set ``deterministic = False``."""
        if not self.deterministic:
            skip("the reward says that it is not deterministic")
        reward, another = self.make(), self.make()
        for trajectory in self.samples():
            values = {
                self.score(reward, trajectory),
                self.score(reward, trajectory),
                self.score(another, trajectory),
            }
            require(len(values) == 1, f"the same trajectory got different scores: {sorted(values)}")

    def test_trajectories_of_one_id_are_scored_each_on_its_own(self) -> None:
        """Fix: ids come again in the next phase and run: cache by what was said, such as ``final_text``."""
        if not self.deterministic:
            skip("the reward says that it is not deterministic")
        alike = [replace(trajectory, id="task-0-0", sample=0) for trajectory in self.samples()]
        reward = self.make()
        for number, trajectory in enumerate(alike):
            fresh, used = self.score(self.make(), trajectory), self.score(reward, trajectory)
            require(
                fresh == used,
                f"sample {number} got {used} after others of its id, and {fresh} from a new reward: the "
                "score is remembered by the trajectory's id",
            )

    def test_scoring_changes_nothing(self) -> None:
        """Fix: work on copies: the trajectory is also read by other rewards and written to disk."""
        reward = self.make()
        for trajectory in self.samples():
            before = trajectory.to_json()
            self.score(reward, trajectory)
            require(trajectory.to_json() == before, "the reward changed the trajectory that it scored")

    def test_global_random_generators_are_not_seeded(self) -> None:
        """Fix: draw from a ``random.Random(seed)`` of your own; other plugins draw from the global one."""
        seeded = seeded_generators(lambda: [self.score(self.make(), t) for t in self.samples()])
        require(not seeded, f"the reward seeds the global generator of {' and '.join(seeded)}")

    def test_the_event_loop_is_not_blocked(self) -> None:
        """Fix: ``await`` what takes time, or make ``score`` no coroutine: then it runs in a thread."""

        async def play(steps: list[float]) -> None:
            reward = self.make()
            for trajectory in self.samples():
                await timed(called(reward.score, trajectory), steps)

        self.require_unblocked(play, "score()")

    def test_a_time_limit_ends_it(self) -> None:
        """Fix: let ``asyncio.CancelledError`` pass: ``except Exception`` in place of ``except:``."""
        reward = self.make()
        if not inspect.iscoroutinefunction(reward.score):
            skip("score is no coroutine: nobody waits for its thread after the limit")
        self.require_cancellable(lambda within: within(called(reward.score, self.samples()[0])), "score()")

    def test_words_of_users_and_tools_do_not_count_as_the_policys(self) -> None:
        """Fix: read ``policy_messages``, ``policy_text`` or ``final_text``; not all of ``messages``.

        If your reward is to compare the answer with what was asked or found, set
        ``reads_other_messages = True``.
        """
        if self.reads_other_messages or not self.deterministic:
            skip("the reward says that it reads other messages, or is not deterministic")
        reward = self.make()
        for trajectory in self.samples():
            best = max(trajectory.policy_messages, key=lambda message: len(message["content"]))
            silent: list[Message] = [
                user("Hello?"),
                assistant("", [LOOKUP]),
                tool_result(LOOKUP, "nothing"),
                assistant("Hm"),
            ]
            parroted: list[Message] = [
                user(best["content"]),
                assistant("", [LOOKUP]),
                tool_result(LOOKUP, best["content"]),
                assistant("Hm"),
            ]
            quiet, echoed = (
                self.score(reward, replace(trajectory, messages=said)) for said in (silent, parroted)
            )
            require(
                quiet == echoed,
                f"the score changed from {quiet} to {echoed} when a user and a tool said good words",
            )

    def test_many_may_be_scored_at_once(self) -> None:
        """Fix: the host scores in threads, or many coroutines at once: keep no state, or guard it."""
        if not self.deterministic:
            skip("the reward says that it is not deterministic")
        reward = self.make()
        given = list(self.samples())
        expected = [self.score(reward, sample) for sample in given]

        async def at_once() -> list[float]:
            return list(await asyncio.gather(*(self._score(reward, t, t.id) for t in given * 8)))

        require(self.run(at_once()) == expected * 8, "scores differ where several are asked for at once")

    def test_close_may_be_called_twice(self) -> None:
        """Fix: let ``close`` check what is still open."""
        reward = self.make()
        close_plainly(reward.close)
        close_plainly(reward.close)

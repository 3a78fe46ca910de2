"""Contract tests of rewards: inherit, say how to make yours, run pytest.

from grpo_sdk.testing import RewardContract

class TestPoliteness(RewardContract):
    def make(self):
        return Politeness()
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar

from grpo_sdk.messages import Message, assistant, tool_call, tool_result, user
from grpo_sdk.rewards import GroupReward, Reward, RewardResult, Score
from grpo_sdk.testing.checks import require, skip
from grpo_sdk.testing.trajectories import make_trajectory
from grpo_sdk.trajectory import Task, Trajectory

_LOOKUP = tool_call("lookup", '{"id": "7"}', "call_1")


def _samples(data: Mapping[str, Any]) -> list[Trajectory]:
    outcome = {"success": True, "score": 0.5}
    task = Task("task-0", deepcopy(dict(data)))
    dialogue = [
        user("Where is my order?"),
        assistant("", [_LOOKUP]),
        tool_result(_LOOKUP, '{"status": "shipped"}'),
        assistant("Thank you for waiting. Your order was shipped today."),
        user("Good, thanks."),
        assistant("You're welcome! Is there anything else that I can do?"),
    ]
    return [
        make_trajectory(dialogue, outcome=outcome, task=task),
        make_trajectory(
            "I am sorry about that. Let me check it for you right away.", outcome=outcome, task=task
        ),
        make_trajectory("no", outcome={"success": False, "score": 0.0}, task=task),
    ]


def _odd(data: Mapping[str, Any]) -> dict[str, Trajectory]:
    outcome = {"success": False, "score": 0.0}
    conversations: dict[str, list[Message]] = {
        "no messages": [],
        "no answer": [user("Hello?")],
        "an empty answer": [user("Hello?"), assistant("")],
        "only a tool call": [user("Hello?"), assistant("", [_LOOKUP]), tool_result(_LOOKUP, "7")],
        "only spaces": [user("Hello?"), assistant(" \n\t ")],
        "only punctuation": [user("Hello?"), assistant("?!… --- ...")],
        "emoji and other scripts": [user("Hello?"), assistant("👋🏽 你好 مرحبا \u202e\ufeff\x00")],
        "a very long answer": [user("Hello?"), assistant("I will check your order. " * 20_000)],
        "a long word": [user("Hello?"), assistant("a" * 200_000)],
    }
    return {
        name: make_trajectory(
            said, outcome=outcome, environment_reward=0.0, task=Task("task-0", deepcopy(dict(data)))
        )
        for name, said in conversations.items()
    }


def _raised(problem: Exception, what: str, data: Mapping[str, Any]) -> AssertionError:
    hint = (
        ""
        if data
        else '. If it reads the task, set in the test what it reads, such as data = {"answer": "4"}'
    )
    return AssertionError(f"{what}: it raised {problem!r}; return a low score{hint}")


def _value(score: Score, what: str) -> float:
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


class RewardContract:
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
        return _samples(self.data)

    def score(self, reward: Reward, trajectory: Trajectory) -> float:
        """The value that ``reward`` gives, awaited if it is a coroutine."""
        return self._score(reward, trajectory, trajectory.id)

    def _score(self, reward: Reward, trajectory: Trajectory, name: str) -> float:
        what = f"{type(reward).__name__} on {name}"
        try:
            score = reward.score(trajectory)
            if inspect.isawaitable(score):

                async def wait(score: Awaitable[Score] = score) -> Score:
                    return await score

                score = asyncio.run(wait())
        except Exception as problem:
            raise _raised(problem, what, self.data) from problem
        return _value(score, what)

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
        for name, trajectory in _odd(self.data).items():
            value = self._score(reward, trajectory, name)
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

    def test_scoring_changes_nothing(self) -> None:
        """Fix: work on copies: the trajectory is also read by other rewards and written to disk."""
        reward = self.make()
        for trajectory in self.samples():
            before = trajectory.to_json()
            self.score(reward, trajectory)
            require(trajectory.to_json() == before, "the reward changed the trajectory that it scored")

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
                assistant("", [_LOOKUP]),
                tool_result(_LOOKUP, "nothing"),
                assistant("Hm"),
            ]
            parroted: list[Message] = [
                user(best["content"]),
                assistant("", [_LOOKUP]),
                tool_result(_LOOKUP, best["content"]),
                assistant("Hm"),
            ]
            quiet, echoed = (
                self.score(reward, replace(trajectory, messages=said)) for said in (silent, parroted)
            )
            require(
                quiet == echoed,
                f"the score changed from {quiet} to {echoed} when a user and a tool said good words",
            )

    def test_many_threads_may_score_at_once(self) -> None:
        """Fix: the host scores in threads: keep no state in attributes, or guard it with a lock."""
        if not self.deterministic:
            skip("the reward says that it is not deterministic")
        reward = self.make()
        samples = list(self.samples())
        expected = [self.score(reward, sample) for sample in samples]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda sample: self.score(reward, sample), samples * 8))
        require(found == expected * 8, "scores differ where several threads ask at once")

    def test_close_may_be_called_twice(self) -> None:
        """Fix: let ``close`` check what is still open."""
        reward = self.make()
        reward.close()
        reward.close()


class GroupRewardContract:
    """What the host relies on in every ``GroupReward``."""

    data: ClassVar[Mapping[str, Any]] = {}
    """``trajectory.task.data`` of the trajectories here: columns that the reward reads, such as an answer."""

    def make(self) -> GroupReward:
        """Make a new instance of the group reward under test."""
        raise NotImplementedError(f"{type(self).__name__} needs def make(self) returning the reward")

    def group(self) -> Sequence[Trajectory]:
        """Trajectories of one task; override if yours need something special."""
        return _samples(self.data)

    def scores(self, reward: GroupReward, trajectories: Sequence[Trajectory]) -> list[float]:
        """The values that ``reward`` gives, awaited if it is a coroutine."""
        try:
            found = reward.score_group(trajectories)
            if inspect.isawaitable(found):

                async def wait(found: Awaitable[Sequence[Score]] = found) -> Sequence[Score]:
                    return await found

                found = asyncio.run(wait())
        except Exception as problem:
            raise _raised(problem, type(reward).__name__, self.data) from problem
        scores = found
        require(
            len(scores) == len(trajectories),
            f"{len(scores)} scores for {len(trajectories)} trajectories: return one each, in order",
        )
        return [_value(score, f"{type(reward).__name__}, index {i}") for i, score in enumerate(scores)]

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
        self.scores(self.make(), list(_odd(self.data).values()))

    def test_scoring_changes_nothing(self) -> None:
        """Fix: work on copies: trajectories are also read by other rewards and written to disk."""
        group = list(self.group())
        before = [trajectory.to_json() for trajectory in group]
        self.scores(self.make(), group)
        require([t.to_json() for t in group] == before, "the reward changed the trajectories")

    def test_close_may_be_called_twice(self) -> None:
        """Fix: let ``close`` check what is still open."""
        reward = self.make()
        reward.close()
        reward.close()

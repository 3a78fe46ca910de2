"""A mixture of environments: each episode is played in the environment that its task comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from grpo_host.agents.agent import Agent
from grpo_host.rollouts.engine import RolloutEngine
from grpo_host.rollouts.evaluation import evaluate
from grpo_host.rollouts.mixture import Mixture, environment_of
from grpo_host.rollouts.scoring import RewardSet, WeightedReward
from grpo_sdk import Environment, Observation, Reward, StepResult, Task, system, user
from grpo_sdk.testing import ScriptedBackend


class Asks(Environment):
    """Asks one question, and says how it went."""

    def __init__(self, question: str, *, count: int = 2, right: bool = True, tool: str = "look") -> None:
        self.question, self.count, self.right, self.tool = question, count, right, tool
        self.closed = False

    def tasks(self, split: str) -> Sequence[Task]:
        if split == "validation":
            raise ValueError("no such split")
        return [Task(f"{split}-{n}", {"n": n}, split) for n in range(self.count)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        if not task.id.startswith(("train-", "held_out-")):
            raise ValueError(f"{task.id} is no task of mine")
        return Observation([system(f"You know {self.question}."), user(self.question)])

    async def step(self, action: Any) -> StepResult:
        return StepResult(done=True, outcome={"success": self.right})

    def tools(self) -> Sequence[Any]:
        return (self._tool(),)

    def serving_tools(self) -> Sequence[Any]:
        return (self._tool(),)

    def _tool(self) -> Any:
        def look() -> str:
            """Look it up."""
            return self.question

        look.__name__ = self.tool
        return look

    async def close(self) -> None:
        self.closed = True


class Success(Reward):
    def score(self, trajectory: Any) -> float:
        return float(trajectory.outcome["success"])


class Forgetful(Reward):
    """Knows only what trivia's tasks hold."""

    def score(self, trajectory: Any) -> float:
        if trajectory.environment != "trivia":
            raise KeyError("answer")
        return 0.5


def mixture() -> Mixture:
    return Mixture(
        {
            "sums": lambda: Asks("2 + 2?", count=3, tool="add"),
            "trivia": lambda: Asks("Who?", count=1, right=False),
        }
    )


def engine(*rewards: WeightedReward) -> RolloutEngine:
    return RolloutEngine(
        Agent(ScriptedBackend()),
        mixture,
        RewardSet(rewards or [WeightedReward("success", Success())]),
        environment_name=environment_of,
    )


async def played(*rewards: WeightedReward) -> Any:
    tasks = mixture().tasks("held_out")
    return await evaluate(engine(*rewards), tasks, seed=0, split="held_out")


def test_a_split_takes_the_environments_in_turn() -> None:
    assert [task.id for task in mixture().tasks("train")] == [
        "sums/train-0",
        "trivia/train-0",
        "sums/train-1",
        "sums/train-2",
    ]


async def test_an_episode_is_played_with_its_environments_own_task_and_instructions() -> None:
    _, trajectories = await played()

    assert {(item.environment, item.messages[0]["content"]) for item in trajectories} == {
        ("sums", "You know 2 + 2?."),
        ("trivia", "You know Who?."),
    }


async def test_an_episode_has_its_environments_tools_and_closes_it() -> None:
    made: list[Asks] = []

    def sums() -> Asks:
        made.append(Asks("2 + 2?", tool="add"))
        return made[-1]

    mixed = Mixture({"sums": sums, "trivia": lambda: Asks("Who?")})

    async def episode() -> list[str]:
        await mixed.reset(Task("sums/train-0", kind="sums"), seed=0)
        names = [tool.__name__ for tool in await mixed.tools()]  # type: ignore[union-attr]
        await mixed.close()
        return names

    assert await episode() == ["add"]
    assert made[-1].closed


async def test_an_evaluation_tells_the_environments_apart() -> None:
    evaluation, _ = await played()

    assert {
        name: (of.episodes, of.reward.mean, of.success.mean) for name, of in evaluation.kinds.items()
    } == {
        "sums": (3, 1.0, 1.0),
        "trivia": (1, 0.0, 0.0),
    }
    assert "\n  trivia: reward 0.000" in str(evaluation)


async def test_a_reward_of_one_environment_does_not_fail_the_others_episodes() -> None:
    of_trivia = WeightedReward("facts", Forgetful(), environments=frozenset({"trivia"}))
    evaluation, _ = await played(WeightedReward("success", Success()), of_trivia)

    assert evaluation.failed == 0
    assert evaluation.parts == {"success": 0.75, "facts": 0.5}
    assert evaluation.kinds["trivia"].reward.mean == 0.5


def test_a_split_that_one_environment_lacks_is_none_of_the_mixture() -> None:
    with pytest.raises(ValueError, match="no such split"):
        mixture().tasks("validation")


def test_tools_for_serving_are_those_of_all_and_a_name_that_comes_twice_is_said(caplog) -> None:
    mixed = Mixture({"a": lambda: Asks("A?"), "b": lambda: Asks("B?"), "c": lambda: Asks("C?", tool="call")})

    assert [tool() for tool in mixed.serving_tools()] == ["A?", "C?"]  # type: ignore[operator]
    assert 'tool "look" is that of an earlier environment, not of "b"' in caplog.text

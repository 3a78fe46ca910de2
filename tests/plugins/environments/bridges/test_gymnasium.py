"""Games of Gymnasium as environments, against the real library."""

from __future__ import annotations

import re
from typing import Any

import pytest

from grpo_environments.bridges.gymnasium import GymnasiumEnvironment
from grpo_sdk import StepResult, Task, assistant
from grpo_sdk.testing import EnvironmentContract

gymnasium = pytest.importorskip("gymnasium", reason="pip install 'grpo-agent-framework[gymnasium]'")

LAKE = {"id": "FrozenLake-v1", "options": {"is_slippery": False}, "actions": ("left", "down", "right", "up")}
WAY = ["down", "down", "right", "right", "down", "right"]


class Echo(gymnasium.Env):  # type: ignore[misc,name-defined]
    """Wants the word that it shows."""

    observation_space = action_space = gymnasium.spaces.Text(20)

    def __init__(self) -> None:
        self.closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.word = f"word{self.np_random.integers(10**9)}"
        return f"Say{self.word}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "over", float(action == self.word), True, False, {}


gymnasium.register("test/Echo-v0", Echo)


async def play(
    environment: GymnasiumEnvironment, *answers: str
) -> tuple[list[dict[str, Any]], list[StepResult]]:
    opening = await environment.reset(environment.tasks("train")[0], seed=0)
    results = [await environment.step(assistant(answer)) for answer in answers]
    await environment.close()
    return opening.messages, results  # type: ignore[return-value]


class TestGymnasium(EnvironmentContract):
    def make(self) -> GymnasiumEnvironment:
        return GymnasiumEnvironment(id="test/Echo-v0", train_tasks=4, held_out_tasks=4)


async def test_actions_are_named_and_the_return_is_the_reward() -> None:
    opening, results = await play(GymnasiumEnvironment(**LAKE), *(f"I go {name}." for name in WAY))

    assert opening[0]["content"] == "Answer with one of these actions: left, down, right, up."
    assert [result.done for result in results] == [False] * 5 + [True]
    assert results[-1].outcome == {"success": True, "score": 1.0, "steps": 6}
    assert sum(result.reward or 0.0 for result in results) == 1.0


async def test_the_action_that_is_named_last_counts() -> None:
    _, [result] = await play(GymnasiumEnvironment(**LAKE), "Not left, but Down")

    assert result.messages[0]["content"] == "4"


async def test_an_answer_without_an_action_is_asked_for_again_and_is_no_step() -> None:
    _, results = await play(GymnasiumEnvironment(**LAKE), "Where am I?", "lefthand", *WAY)

    said = "That is no action. The actions are: left, down, right, up."
    assert [result.messages[0]["content"] for result in results[:2]] == [said, said]
    assert [result.reward for result in results[:2]] == [0.0, 0.0]
    assert results[-1].outcome["steps"] == 6


async def test_a_picture_shows_where_one_is_without_colours() -> None:
    opening, _ = await play(GymnasiumEnvironment(**LAKE, show="render", instructions="Cross the lake."))

    assert opening[0]["content"].startswith("Cross the lake.\n")
    assert opening[1]["content"] == "[S]FFF\nFHFH\nFFFH\nHFFG"


async def test_text_is_given_and_taken_as_it_is_and_seeds_make_the_tasks() -> None:
    environment = GymnasiumEnvironment(id="test/Echo-v0")
    opening, _ = await play(environment)
    word = opening[0]["content"].removeprefix("Say")

    _, [result] = await play(environment, word)

    assert result.outcome["success"]
    other = (await environment.reset(environment.tasks("train")[1], seed=0)).messages[0]["content"]
    assert other != f"Say{word}"


async def test_it_is_closed_after_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(Echo, "close", lambda _: closed.append(True))
    await play(GymnasiumEnvironment(id="test/Echo-v0"), "x")

    assert closed == [True]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": "FrozenLake-v9"}, "id: Environment version `v9` for environment `FrozenLake` doesn't exist"),
        ({"id": "os:Lake-v1"}, "id: os:Lake-v1 names a module"),
    ],
)
def test_an_id_that_is_none_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        GymnasiumEnvironment(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({**LAKE, "actions": ("left", "right")}, "actions: 2 names for the 4 actions of FrozenLake-v1"),
        ({"id": "Pendulum-v1"}, r"the actions of Pendulum-v1 are Box.*neither Discrete nor Text"),
    ],
)
async def test_actions_that_cannot_be_named_are_said_at_reset(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        await GymnasiumEnvironment(**options).reset(Task("train-0000", {"seed": 1}), seed=0)

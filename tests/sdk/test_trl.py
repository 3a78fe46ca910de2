"""What was written for TRL, used unchanged."""

from __future__ import annotations

import dataclasses

import pytest

from grpo_sdk import Environment, Observation, StepResult, Task
from grpo_sdk.messages import assistant, user
from grpo_sdk.testing import EnvironmentContract, GroupRewardContract, make_trajectory
from grpo_sdk.trajectory import Ledger, TokenSequence
from grpo_sdk.trl import TrlEnvironment, is_trl_reward, trl_reward


def matches(prompts, completions, answer, **kwargs):
    """As in TRL's docs: a score a completion."""
    return [float(c[-1]["content"] == a) for c, a in zip(completions, answer, strict=True)]


def length(completions):
    return [float(len(completion)) for completion in completions]


class TestTrlReward(GroupRewardContract):
    def make(self):
        return trl_reward(length)()


def group(*texts, **data):
    return [dataclasses.replace(make_trajectory(text), task=Task("t", data)) for text in texts]


async def score(function, trajectories):
    return await trl_reward(function)().score_group(trajectories)


async def test_a_reward_function_is_given_the_columns_of_the_tasks():
    assert await score(matches, group("4", "5", answer="4")) == [1.0, 0.0]


async def test_a_coroutine_is_awaited():
    async def later(completions, **_):
        return length(completions)

    assert await score(later, group("a", "b")) == [1.0, 1.0]


async def test_prompts_end_and_completions_begin_at_the_policys_first_word():
    seen = {}

    def look(prompts, completions, completion_ids):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids)
        return [0.0]

    (item,) = group("Hello.")
    ledger = Ledger([TokenSequence([5, 6, 7], [0, 1, 1], [0.0, -1.0, -1.0], [-1, 0, 0])])
    await score(look, [dataclasses.replace(item, ledger=ledger)])
    assert [m["role"] for m in seen["prompts"][0]] == ["user"]
    assert seen["completions"] == [[{"role": "assistant", "content": "Hello."}]]
    assert seen["ids"] == [[6, 7]]


async def test_none_is_no_score():
    def nothing(completions):
        return [None for _ in completions]

    with pytest.raises(ValueError, match="nothing gave None: it is to score every completion"):
        await score(nothing, group("a"))


class Punishment:
    """An object that is called, as ``trl.rewards.get_soft_overlong_punishment`` gives."""

    def __call__(self, completion_ids, **columns):
        return [-float(len(ids)) for ids in completion_ids]


async def test_an_object_that_is_called_is_used_as_a_function_is():
    assert await score(Punishment(), group("a")) == [0.0]


def test_a_reward_function_of_trl_is_known_by_its_parameters():
    assert is_trl_reward(matches)
    assert is_trl_reward(Punishment())
    assert not is_trl_reward(lambda trajectory: 1.0)
    assert not is_trl_reward(TestTrlReward)


class Guess:
    """An environment class as TRL's ``environment_factory`` takes it."""

    def reset(self, number: int, **columns) -> str:
        self.number = number
        self.right = False
        return f" Between {columns['least']} and {columns['most']}."

    def guess(self, value: int) -> str:
        """Guess the number.

        Args:
            value: What you guess.
        """
        self.right = value == self.number
        return "right" if self.right else "wrong"

    def get_reward(self) -> float:
        return float(self.right)


class Rows(Environment):
    def tasks(self, split):
        if split not in ("train", "held_out"):
            raise ValueError(split)
        first = 0 if split == "train" else 10
        return [
            Task(f"{split}-{n}", {"number": first + n, "least": first + n, "most": first + 9}, split)
            for n in range(2)
        ]

    async def reset(self, task, *, seed):
        return Observation([user("Guess.")])

    async def step(self, action):
        return StepResult(done=True)


class TestTrlEnvironment(EnvironmentContract):
    def make(self):
        return TrlEnvironment(Guess(), Rows())


async def test_an_environment_class_gives_its_methods_as_tools_and_its_reward():
    async def play():
        made = TrlEnvironment(Guess(), Rows())
        opening = await made.reset(made.tasks("train")[1], seed=0)
        assert opening.messages == [user("Guess. Between 1 and 9.")]
        (tool,) = made.tools()
        assert (tool.__name__, tool(1)) == ("guess", "right")
        return await made.step(assistant("Done."))

    assert await play() == StepResult(done=True, reward=1.0)


async def test_what_no_text_can_show_is_refused():
    class Picture(Guess):
        def reset(self, **columns):
            return [{"type": "image"}]

    async def play():
        made = TrlEnvironment(Picture(), Rows())
        await made.reset(made.tasks("train")[0], seed=0)

    with pytest.raises(ValueError, match="only a text can be shown to the model here"):
        await play()

"""The tool and environment contracts find what is broken, and say how to mend it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import pytest

from grpo_sdk import Environment, Observation, StepResult, Task, assistant, tool_call, user
from grpo_sdk.testing import (
    BackendContract,
    EnvironmentContract,
    GroupRewardContract,
    RewardContract,
    ToolContract,
)
from grpo_sdk.tools import ToolLike


class Echo(Environment):
    """Asks for three messages."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def tasks(self, split: str) -> Sequence[Task]:
        if split not in ("train", "held_out"):
            raise ValueError("the splits are train and held_out")
        return [Task(f"{split}-{n}", {"word": f"{split} {n}"}, split) for n in range(10)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.heard = []
        return Observation([user(f"Say {task.data['word']}.")])

    async def step(self, action) -> StepResult:
        self.heard.append(action["content"])
        done = len(self.heard) == 3
        return StepResult([] if done else [user("Again.")], done, self.outcome() if done else {})

    def outcome(self):
        return {"success": False, "heard": len(self.heard)}


class TestEcho(EnvironmentContract):
    def make(self) -> Environment:
        return Echo()


class Endless(Echo):
    async def step(self, action) -> StepResult:
        return StepResult([user("Again.")])


class Mute(Echo):
    async def step(self, action) -> StepResult:
        return StepResult()


class OneSplit(Echo):
    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(f"{split}-{n}", {"word": str(n)}, split) for n in range(4)]


class Shared(Echo):
    heard: ClassVar[list[str]] = []

    def __init__(self) -> None:
        pass

    async def reset(self, task: Task, *, seed: int) -> Observation:
        Shared.heard.clear()
        await asyncio.sleep(0)
        return Observation([user("Go.")])

    async def step(self, action) -> StepResult:
        await asyncio.sleep(0)
        return await super().step(action)


class Boasting(Echo):
    def outcome(self):
        return {"success": True}


class NoJson(Echo):
    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(split, {"word": {1, 2}}, split)]


class Unanswered(Echo):
    def demonstrations(self, split: str):
        return [[user("Hi"), assistant("", [tool_call("f", "{}", "c")]), assistant("Bye")]]


class Consuming(Echo):
    async def step(self, action) -> StepResult:
        self.task.data["word"] = ""
        return await super().step(action)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.task = task
        return await super().reset(task, seed=seed)


class Unexplained(Echo):
    def tools(self):
        def look_up(order: str) -> str:
            return order

        return [look_up]


class Renamed(Echo):
    """Its served tool takes another argument than the model was trained with."""

    def tools(self):
        def look_up(order: str) -> str:
            """Look up an order."""
            return order

        return [look_up]

    def serving_tools(self):
        def look_up(order_id: str) -> str:
            """Look up an order."""
            return order_id

        return [look_up]


@pytest.mark.parametrize(
    ("environment", "test", "message"),
    [
        (Endless, "test_every_episode_ends_with_facts", "not done after 50 messages"),
        (Mute, "test_every_episode_ends_with_facts", "neither done=True nor a user message"),
        (OneSplit, "test_splits_have_no_task_in_common", "is also in train"),
        (OneSplit, "test_splits_begin_with_different_messages", "splits share an opening"),
        (OneSplit, "test_an_unknown_split_is_refused", "raised no ValueError"),
        (Shared, "test_episodes_side_by_side_do_not_disturb_each_other", ""),
        (Boasting, "test_the_outcome_can_be_read_at_any_time", "empty message is a success"),
        (NoJson, "test_tasks_can_be_written_as_json", "cannot be written as JSON"),
        (Unanswered, "test_demonstrations_are_dialogues_that_can_be_imitated", "is not answered before"),
        (Consuming, "test_a_task_is_not_changed_by_its_episode", "train-0 changed task.data from {'word': "),
        (Unexplained, "test_its_tools_are_ready_to_use", "the tool look_up has no description: write"),
        (Renamed, "test_its_serving_tools_look_as_its_tools_do", "has another schema"),
    ],
)
def test_the_environment_contract_finds_what_is_broken(environment, test, message):
    class Contract(EnvironmentContract):
        def make(self) -> Environment:
            return environment()

    with pytest.raises(AssertionError) as raised:
        getattr(Contract(), test)()
    assert message in str(raised.value)


def undocumented(x):
    return x


def terse(text: str) -> str:
    """Repeat a text."""
    return ""


def fragile(text: str) -> str:
    """Fail.

    Args:
        text: Anything.
    """
    raise RuntimeError


@pytest.mark.parametrize(
    ("function", "test", "message"),
    [
        (undocumented, "test_the_model_is_told_what_it_does", "the tool undocumented has no description"),
        (undocumented, "test_every_argument_is_described", 'the argument "x" has no'),
        (terse, "test_every_argument_is_described", 'has no description under "Args:"'),
        (terse, "test_a_valid_call_works", "the answer is empty"),
        (fragile, "test_a_valid_call_works", "failed: RuntimeError"),
        (terse, "test_invalid_calls_are_answered_with_the_reason", "is no error"),
    ],
)
def test_the_tool_contract_finds_what_is_broken(function, test, message):
    class Contract(ToolContract):
        arguments: ClassVar = {"text": "x"}
        invalid_arguments = ({"text": ""},)

        def make(self) -> ToolLike:
            return function

    with pytest.raises(AssertionError) as raised:
        getattr(Contract(), test)()
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "contract", [BackendContract, EnvironmentContract, GroupRewardContract, RewardContract, ToolContract]
)
def test_every_contract_test_says_how_to_mend_a_failure(contract):
    tests = [getattr(contract, name) for name in dir(contract) if name.startswith("test_")]
    assert tests
    for test in tests:
        assert (test.__doc__ or "").startswith("Fix: "), test.__name__


@pytest.mark.parametrize("contract", [EnvironmentContract, GroupRewardContract, RewardContract, ToolContract])
def test_a_contract_without_make_says_what_is_missing(contract):
    with pytest.raises(NotImplementedError, match=r"needs def make\(self\)"):
        contract().make()

"""What is wrong in an environment's shape is said before anything is loaded."""

from __future__ import annotations

import itertools

import pytest

from grpo_host.checks.environment import check_environment
from grpo_host.checks.probe import probe_environment
from grpo_sdk import Environment, Observation, StepResult, Task, user


class Desk(Environment):
    def tasks(self, split):
        return [Task(f"{split}-{n}") for n in range(2)]

    async def reset(self, task, *, seed):
        return Observation([user("Hi")])

    async def step(self, action):
        return StepResult(done=True)


COUNT = itertools.count()


class Panic(BaseException):
    """As an extension in Rust raises it."""


def nothing(*_, **__):
    raise Panic("out of bounds")


async def given(value):
    return value


@pytest.mark.parametrize(
    ("method", "does", "said"),
    [
        (
            "reset",
            lambda *_, **__: given(None),
            "TypeError: reset() must return an Observation, not NoneType",
        ),
        (
            "reset",
            lambda *_, **__: given(("Hi", 1)),
            "TypeError: reset() must return an Observation, not tuple",
        ),
        ("reset", lambda *_, **__: given(Observation(["Hi"])), "ValueError: message 0 is 'Hi', not a dict"),
        ("reset", nothing, "Panic: out of bounds (checks/test_probe.py:"),
        (
            "tasks",
            lambda _, split: ["a"],
            'TypeError: tasks("train") returned something that is no grpo_sdk.Task',
        ),
        (
            "tasks",
            lambda _, split: [Task(str(next(COUNT)))],
            'ValueError: tasks("train") are others when asked',
        ),
    ],
)
def test_what_a_method_gives_wrongly_is_named(method, does, said):
    made = type("Broken", (Desk,), {method: does})
    assert probe_environment(made, ["train", "held_out"], seconds=10).error.startswith(said)


def test_tasks_may_come_from_a_generator():
    made = type("Lazy", (Desk,), {"tasks": lambda self, split: (Task(f"{split}-{n}") for n in range(2))})
    facts = probe_environment(made, ["train", "held_out"], seconds=10)
    assert (facts.error, facts.tasks["train"]) == (None, ["train-0", "train-1"])


def tool(name):
    def call() -> str:
        """Do it."""
        return ""

    call.__name__ = name
    return call


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["look", "look"], 'two of its tools are called "look"; each needs its own name'),
        (["look up"], 'its tool is called "look up", which providers refuse'),
    ],
)
def test_tools_that_no_provider_takes_are_named(names, said):
    made = type("Desk", (Desk,), {"tools": lambda self: [tool(name) for name in names]})
    facts = probe_environment(made, ["train", "held_out"], seconds=10)
    complaints = check_environment(facts, ("environment",), training=False)
    assert any(complaint.message.startswith(said) for complaint in complaints)

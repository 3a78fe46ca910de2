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
            "reset(): TypeError: it must return an Observation, not NoneType",
        ),
        (
            "reset",
            lambda *_, **__: given(("Hi", 1)),
            "reset(): TypeError: it must return an Observation, not tuple",
        ),
        (
            "reset",
            lambda *_, **__: given(Observation(["Hi"])),
            "reset(): ValueError: message 0 is 'Hi', not a dict",
        ),
        ("reset", nothing, "reset(): Panic: out of bounds (checks/test_probe.py:"),
        (
            "tasks",
            lambda _, split: ["a"],
            "tasks(\"train\"): TypeError: it must return a list of grpo_sdk.Task, and 'a' is none",
        ),
        (
            "tasks",
            lambda _, split: [Task(str(next(COUNT)))],
            'tasks("train"): ValueError: they are others when asked',
        ),
    ],
)
def test_what_a_method_gives_wrongly_is_named(method, does, said):
    made = type("Broken", (Desk,), {method: does})
    assert probe_environment(made, ["train", "held_out"], seconds=10).error.startswith(said)


async def later(*_, **__):
    return []


@pytest.mark.parametrize(
    ("method", "does", "said"),
    [
        (
            "tasks",
            lambda _, split: (Task(f"{split}-{n}") for n in range(2)),
            'tasks("train"): TypeError: it must return a list of grpo_sdk.Task, not generator',
        ),
        (
            "tasks",
            lambda _, split: None,
            'tasks("train"): TypeError: it must return a list of grpo_sdk.Task, not None',
        ),
        (
            "tasks",
            later,
            'tasks("train"): TypeError: it must return a list of grpo_sdk.Task, not coroutine',
        ),
        ("tools", lambda _: None, "tools(): TypeError: it must return a list of tools, not None"),
        ("tools", lambda _: [3], "tools(): TypeError: a tool is a BaseTool, a retriever or a function"),
        (
            "reset",
            lambda *_, **__: Observation([user("Hi")]),
            'reset(): TypeError: it is a plain function; write "async def reset"',
        ),
        ("close", lambda _: None, 'close(): TypeError: it is a plain function; write "async def close"'),
    ],
)
def test_what_is_no_list_or_no_coroutine_is_named_without_a_line_of_python(method, does, said):
    made = type("Broken", (Desk,), {method: does})
    error = probe_environment(made, ["train", "held_out"], seconds=10).error
    assert error.startswith(said)
    assert "asyncio" not in error


def test_what_a_library_takes_to_import_is_no_time_of_the_environments(tmp_path, monkeypatch):
    (tmp_path / "heavy_library.py").write_text("import time\ntime.sleep(0.6)\n")
    monkeypatch.syspath_prepend(tmp_path)

    class Heavy(Desk):
        def __init__(self):
            import heavy_library  # noqa: F401

    assert probe_environment(Heavy, ["train", "held_out"], seconds=0.3).error is None


def test_an_import_that_does_not_end_is_named(tmp_path, monkeypatch):
    (tmp_path / "endless_library.py").write_text("import time\ntime.sleep(1.5)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("grpo_host.checks.probe.IMPORT_SECONDS", 0.3)

    class Heavy(Desk):
        def __init__(self):
            import endless_library  # noqa: F401

    error = probe_environment(Heavy, ["train", "held_out"], seconds=5).error
    assert "no answer within 0.3 s from making it (at " in error


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

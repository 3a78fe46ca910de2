"""The examples of docs/plugins/ work as they are printed: each passes the contract that its page names."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest

from grpo_host.plugins import Registry
from grpo_host.plugins.observed_run import observed_run
from grpo_sdk import ModelSpec, Sampling, Strategy, user
from grpo_sdk.testing import (
    BackendContract,
    EnvironmentContract,
    GroupRewardContract,
    RewardContract,
    ToolContract,
    make_trajectory,
)
from grpo_sdk.testing.contract import Contract

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "plugins"
SCAFFOLD = ROOT / "templates" / "grpo_templates" / "plugin" / "src" / "acme_plugin"


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)


def names(page: str) -> dict[str, Any]:
    """What the snippets of ``page`` define, each after those before it."""
    namespace: dict[str, Any] = {"__name__": f"docs_{page.replace('-', '_')}"}
    for snippet in snippets(page):
        # As a module that begins with it has it: annotations are texts.
        exec(compile(snippet, f"docs/plugins/{page}.md", "exec"), namespace)
    return namespace


def keep(contract: type[Contract]) -> None:
    """Run the tests of ``contract``, but not those that a plugin leaves out or that pytest's fixtures need."""
    made = contract()
    try:
        for name in dir(contract):
            test = getattr(made, name)
            if name.startswith("test_") and not inspect.signature(test).parameters:
                try:
                    test()
                except SkipTest:
                    continue
    finally:
        if issubclass(contract, BackendContract):
            contract.teardown_class()


@pytest.mark.parametrize("kind", ["reward", "tool", "environment", "strategy", "backend"])
def test_the_complete_example_is_what_new_plugin_writes(kind: str) -> None:
    written = (SCAFFOLD / f"{kind}.py").read_text()
    assert written.strip() in [snippet.strip() for snippet in snippets(kind)]


@pytest.mark.parametrize(
    ("page", "test"),
    [
        ("reward", "TestBrief"),
        ("group-reward", "TestRightAndShort"),
        ("tool", "TestAddNumbers"),
        ("environment", "TestSums"),
        ("backend", "TestAdder"),
    ],
)
def test_the_example_passes_the_tests_that_its_page_shows(page: str, test: str) -> None:
    keep(names(page)[test])


def test_the_smallest_examples_keep_their_contracts() -> None:
    shortest, capitals = names("group-reward")["Shortest"], names("environment")["Capitals"]
    parrot, clock = names("backend")["Parrot"], names("tool")["clock"]
    keep(type("TestShortest", (GroupRewardContract,), {"make": lambda self: shortest()}))
    keep(type("TestCapitals", (EnvironmentContract,), {"make": lambda self: capitals()}))
    keep(type("TestClock", (ToolContract,), {"make": lambda self: clock()}))
    reply = asyncio.run(parrot(ModelSpec("none")).chat([user("Hi")], Sampling()))
    assert reply.message["content"] == "Hi"


def test_a_reward_of_both_pages_scores_as_it_says() -> None:
    assert issubclass(names("reward")["TestBrief"], RewardContract)
    group = [
        make_trajectory("four", outcome={"success": True}),
        make_trajectory("4", outcome={"success": True}),
        make_trajectory("5", outcome={"success": False}),
    ]
    results = names("group-reward")["RightAndShort"](floor=0.5).score_group(group)
    assert [result.value for result in results] == [0.5, 1.0, 0.0]


def test_strategies_are_who_they_say() -> None:
    defined = names("strategy")
    assert isinstance(defined["pirate"](), Strategy)
    assert defined["short_answers"](words=3).instructions.endswith("Answer in at most 3 words.")


def test_the_observer_writes_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    defined = names("observer")
    registry = Registry()
    registry.register(defined["failures"], "failures")
    small = type("Smallest", (), {"grpo_step_finished": staticmethod(defined["grpo_step_finished"])})
    registry.register(small, "smallest")

    with observed_run(registry, "run", "desk", tmp_path):
        registry.notify_episode(make_trajectory("Hi", status="failed"))
        registry.notify_episode(make_trajectory("Hi"))
        registry.notify_step(2, {"reward": 0.25})

    [line] = (tmp_path / "failures.jsonl").read_text().splitlines()
    assert json.loads(line) == {"task": "task-0", "error": "the test says so"}
    assert capsys.readouterr().out == "step 2: reward 0.250\n"

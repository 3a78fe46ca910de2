"""The contract of environments names each of these mistakes in their episodes, and says how to mend it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from grpo_sdk import Environment, Observation, StepResult, Task, user
from grpo_sdk.testing import EnvironmentContract


class Guess(Environment):
    """Makes no mistake: it takes three guesses."""

    def tasks(self, split: str) -> Sequence[Task]:
        if split not in ("train", "held_out"):
            raise ValueError("the splits are train and held_out")
        return [Task(f"{split}-{n}", {"number": f"{split} {n}"}, split) for n in range(10)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.asked, self.guesses = task.data["number"], 0
        return Observation([user(f"Guess {self.asked}.")])

    async def step(self, action: Any) -> StepResult:
        self.guesses += 1
        done = self.guesses == 3
        return StepResult([] if done else [user(f"Not yet {self.asked}.")], done, self.outcome())

    def outcome(self) -> dict[str, Any]:
        return {"success": False}


class TestOneWithoutAMistake(EnvironmentContract):
    def make(self) -> Environment:
        return Guess()


class ClassState(Guess):
    """Nothing of it waits, so only turns taken between steps show it."""

    shared: ClassVar[dict[str, str]] = {}

    async def reset(self, task: Task, *, seed: int) -> Observation:
        ClassState.shared["asked"] = task.data["number"]
        return await super().reset(task, seed=seed)

    async def step(self, action: Any) -> StepResult:
        self.asked = ClassState.shared["asked"]
        return await super().step(action)


class Seeding(Guess):
    async def reset(self, task: Task, *, seed: int) -> Observation:
        random.seed(seed)
        return await super().reset(task, seed=seed)


class Generates(Guess):
    def tasks(self, split: str) -> Any:
        return (task for task in super().tasks(split))


class PlainReset(Guess):
    def reset(self, task: Task, *, seed: int) -> Any:
        return Observation([user("Guess.")])


class Gymnasium(Guess):
    async def reset(self, task: Task, *, seed: int) -> Any:
        return (await super().reset(task, seed=seed)), {}


class SaysText(Guess):
    async def step(self, action: Any) -> Any:
        return "done"


class NoNumber(Guess):
    async def step(self, action: Any) -> StepResult:
        return StepResult(done=True, reward=float("nan"))


class GeneratesTools(Guess):
    def tools(self) -> Any:
        return (tool for tool in ())


class Blocking(Guess):
    async def step(self, action: Any) -> StepResult:
        time.sleep(0.04)  # noqa: ASYNC251
        return await super().step(action)


class LeavesFiles(Guess):
    opened: ClassVar[list[Any]] = []

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.opened.append(open(os.devnull))  # noqa: ASYNC230, SIM115
        return await super().reset(task, seed=seed)


class LeavesTasks(Guess):
    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.waiting = asyncio.ensure_future(asyncio.sleep(3600))
        return await super().reset(task, seed=seed)


class LeavesThreads(Guess):
    over = threading.Event()

    async def reset(self, task: Task, *, seed: int) -> Observation:
        threading.Thread(target=self.over.wait, name="simulator", daemon=True).start()
        return await super().reset(task, seed=seed)


class LeavesProcesses(Guess):
    children: ClassVar[list[subprocess.Popen[bytes]]] = []

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.children.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))  # noqa: ASYNC220
        return await super().reset(task, seed=seed)


class ResetsStubbornly(Guess):
    async def reset(self, task: Task, *, seed: int) -> Observation:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(5)


class StepsStubbornly(Guess):
    async def step(self, action: Any) -> StepResult:
        with contextlib.suppress(BaseException):
            await asyncio.sleep(0.05)
        return await super().step(action)


@pytest.fixture
def cleared() -> Any:
    LeavesThreads.over.clear()
    yield
    LeavesThreads.over.set()
    while LeavesFiles.opened:
        LeavesFiles.opened.pop().close()
    while LeavesProcesses.children:
        child = LeavesProcesses.children.pop()
        child.communicate(b"\n")


@pytest.mark.parametrize(
    ("mistake", "test", "message"),
    [
        (ClassState, "test_episodes_side_by_side_do_not_disturb_each_other", "is another beside others"),
        (Seeding, "test_global_random_generators_are_not_seeded", "the global generator of random"),
        (Generates, "test_tasks_are_a_list", "tasks('train') is no list but of the class generator"),
        (PlainReset, "test_every_episode_ends_with_facts", 'reset() is a plain function: write "async def'),
        (Gymnasium, "test_an_episode_begins_with_the_users_words", "must return an Observation, not tuple"),
        (SaysText, "test_every_episode_ends_with_facts", "step() must return a StepResult, not str"),
        (NoNumber, "test_every_episode_ends_with_facts", "the reward of a step is nan"),
        (GeneratesTools, "test_its_tools_are_ready_to_use", "tools() is no list but of the class generator"),
        (ResetsStubbornly, "test_a_time_limit_ends_it", "reset() catches its cancellation and goes on"),
        (StepsStubbornly, "test_a_time_limit_ends_it", "step() catches its cancellation and goes on"),
        (Blocking, "test_the_event_loop_is_not_blocked", "reset() or step() blocked the event loop"),
        (
            LeavesFiles,
            "test_close_releases_what_an_episode_opened",
            "3 open files, pipes or sockets more: /dev",
        ),
        (LeavesTasks, "test_close_releases_what_an_episode_opened", "3 tasks of the event loop more: sleep"),
        (LeavesThreads, "test_close_releases_what_an_episode_opened", "3 threads more: simulator"),
        (LeavesProcesses, "test_close_releases_what_an_episode_opened", "3 child processes more: python"),
    ],
)
def test_each_mistake_is_named_with_its_mending(
    mistake: type[Environment], test: str, message: str, cleared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_sdk.deadline.GRACE_SECONDS", 0.05)

    class Contract(EnvironmentContract):
        blocking_seconds = 0.02

        def make(self) -> Environment:
            return mistake()

    with pytest.raises(AssertionError) as raised:
        getattr(Contract(), test)()
    Contract().run(_end_tasks())
    assert message in str(raised.value)
    assert "\nFix: " in str(raised.value)


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Unordered(Guess):
    def tasks(self, split: str) -> Sequence[Task]:
        names = {task.id: task for task in super().tasks(split)}
        return [names[name] for name in set(names)]


class UnorderedContract(EnvironmentContract):
    def make(self) -> Environment:
        return Unordered()


def test_an_order_that_another_process_does_not_have_is_named() -> None:
    with pytest.raises(AssertionError, match=r"in another process task \d of train is \[") as raised:
        UnorderedContract().test_another_process_makes_the_same_tasks_and_episodes()
    assert "Fix: sort what comes from a set" in str(raised.value)

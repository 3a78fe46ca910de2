"""A plugin that blocks the event loop is named, and nobody else's time runs out."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time

import pytest

from grpo_host.agents.agent import Agent
from grpo_host.rollouts.engine import RolloutEngine, group_requests
from grpo_host.rollouts.loop_watch import LoopWatch, ThreadClock
from grpo_host.rollouts.scoring import RewardSet, WeightedReward
from grpo_sdk import (
    Environment,
    Observation,
    StepResult,
    Task,
    assistant,
    blocking,
    reward,
    tool_call,
    user,
)
from grpo_sdk.deadline import Deadline
from grpo_sdk.testing import ScriptedBackend


def block(seconds):
    time.sleep(seconds)


class Desk(Environment):
    slow = ""

    def tasks(self, split):
        return [Task(f"{split}-{n}") for n in range(4)]

    async def reset(self, task, *, seed):
        if self.slow == "reset":
            block(1.0)
        return Observation([user("Hi")])

    async def step(self, action):
        return StepResult(done=True)

    def tools(self):
        return (self.look_up,)

    async def look_up(self) -> str:
        """Look something up."""
        if self.slow == "tool":
            block(1.0)
        return "found"


@reward
async def slow_block(trajectory) -> float:
    block(1.0)
    return 1.0


@reward
async def quick(trajectory) -> float:
    return 1.0


def play(slow="", score=quick, tasks=1):
    made = type("Desk", (Desk,), {"slow": slow})
    replies = [assistant("", [tool_call("look_up", "{}", "call_0")]), "Done."]

    async def run():
        engine = RolloutEngine(
            Agent(ScriptedBackend(replies=replies)),
            made,
            RewardSet([WeightedReward("slow_block", score())]),
            environment_name="desk",
        )
        groups = group_requests(made().tasks("train")[:tasks], 1, seed=lambda *_: 0, label="x")
        return await engine.run(groups)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("slow", "score", "who"),
    [
        ("reset", quick, 'environment "desk"'),
        ("tool", quick, 'tool "look_up"'),
        ("", slow_block, 'reward "slow_block"'),
    ],
)
def test_who_blocks_the_loop_is_named_with_the_line(caplog, slow, score, who):
    play(slow, score)
    (said,) = [
        record.getMessage() for record in caplog.records if "blocks the event loop" in record.getMessage()
    ]
    assert said.startswith(f"{who} blocks the event loop, for 0.")
    assert "at rollouts/test_loop_watch.py:" in said


def test_one_line_is_named_once(caplog):
    play("reset", tasks=3)
    assert caplog.text.count("blocks the event loop") == 1


def test_what_does_not_block_is_not_named(caplog):
    with caplog.at_level(logging.WARNING):
        play(tasks=4)
    assert "blocks" not in caplog.text


def test_a_machine_that_gives_the_loop_no_turn_is_not_called_a_plugin_that_blocks(caplog, monkeypatch):
    monkeypatch.setattr(ThreadClock, "_is_ready", lambda clock: True)  # asleep in truth: it has no turn
    play("reset")
    assert "blocks" not in caplog.text


def test_a_thread_that_starts_slowly_is_not_called_a_plugin_that_blocks(caplog, monkeypatch):
    class Slow(threading.Thread):
        def start(self):
            block(0.5)
            super().start()

    @reward
    def in_a_thread(trajectory) -> float:
        return 1.0

    monkeypatch.setattr(blocking.threading, "Thread", Slow)
    play(score=in_a_thread)
    assert "blocks" not in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whether a thread is ready")
@pytest.mark.parametrize(("state", "counts"), [("S", True), ("R", False)])
def test_a_sleep_counts_and_a_wait_for_a_core_does_not(state, counts, tmp_path):
    stat = tmp_path / "stat"
    stat.write_text(f"7 (a) name) {state} 1 7")
    clock = ThreadClock(time.pthread_getcpuclockid(threading.get_ident()), stat)
    time.sleep(0.2)
    assert (clock.busy() >= 0.2) is counts


def test_time_that_a_neighbour_blocks_is_nobody_elses():
    """Without the watch, the model's time limit runs out while a neighbour sleeps."""

    async def answer():
        with Deadline(0.3):
            await asyncio.sleep(0.2)
        return "in time"

    async def neighbour():
        await asyncio.sleep(0.05)
        block(0.6)

    async def run():
        with LoopWatch():
            return (await asyncio.gather(answer(), neighbour()))[0]

    assert asyncio.run(run()) == "in time"


def test_the_time_that_a_task_blocks_is_its_own():
    async def blocks():
        with Deadline(0.3):
            block(0.6)
            await asyncio.sleep(5)

    async def run():
        with LoopWatch():
            await asyncio.gather(blocks())

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_a_deadline_without_a_watch_is_as_ever():
    async def late():
        with Deadline(0.05):
            await asyncio.sleep(5)

    with pytest.raises(TimeoutError):
        asyncio.run(late())


def test_how_late_the_loop_was_is_a_metric():
    _, metrics = play(slow="tool")
    assert 0.5 < metrics.as_dict()["loop_lag_p99"] < 30


async def test_a_loop_is_watched_until_the_last_who_wants_it_has_gone():
    with LoopWatch():
        second = LoopWatch()
        second.__enter__()
    for _ in range(20):  # until the thread that looks had a core meanwhile
        block(0.4)
        await asyncio.sleep(0)
        if (second.lag_p99 or 0.0) > 0.2:
            break
    second.__exit__()
    assert second.lag_p99 > 0.2

"""Thousands of episodes at once in one process: ``python -m bench.episodes [--json]``.

The model computes nothing: an answer takes ten seconds, as one of a busy server does, so that all episodes are
under way together and what is measured is our own event loop and memory.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.orchestration import event_loop_name
from bench.report import ROOT, Report, Row, Target, publish
from bench.tool_episodes import TURNS, LookupEnvironment, script
from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.rollouts.engine import RolloutEngine, group_requests
from grpo_host.rollouts.scoring import RewardSet, WeightedReward
from grpo_sdk import Reward
from grpo_sdk.backend import ChatReply, Sampling
from grpo_sdk.messages import Message, ToolSchema
from grpo_sdk.seeds import derive_seed
from grpo_sdk.strategy import Strategy
from grpo_sdk.testing import ScriptedBackend
from grpo_sdk.trajectory import Trajectory

AT_ONCE, MANY, SECONDS, GROUP = 2000, 10_000, 10.0, 8
MEGABYTE = 2**20


class Busy(ScriptedBackend):
    """Takes ``seconds`` for an answer, and no CPU."""

    def __init__(self, seconds: float) -> None:
        super().__init__(script=script)
        self.seconds = seconds
        self.asked = self.most = 0
        self.memory = 0
        """Of the process, in bytes, while the most answers were under way."""

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        self.asked += 1
        if self.asked > self.most:
            self.most = self.asked
            if not self.most % 500:
                self.memory = max(self.memory, resident())
        try:
            await asyncio.sleep(self.seconds)
            return await super().chat(messages, sampling, tools)
        finally:
            self.asked -= 1


class Called(Reward):
    """The share of turns that called a tool."""

    def score(self, trajectory: Trajectory) -> float:
        return sum(bool(turn.tools) for turn in trajectory.turns) / TURNS


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def play(episodes: int, seconds: float) -> dict[str, float]:
    """All at once; raises ``RuntimeError`` unless all go as they should."""
    backend = Busy(seconds)
    engine = RolloutEngine(
        Agent(
            backend, strategy=Strategy("desk", "You work at an order desk."), limits=AgentLimits(turns=TURNS)
        ),
        LookupEnvironment,
        RewardSet([WeightedReward("called", Called())]),
        environment_name="lookup",
        concurrency=episodes,
    )
    tasks = LookupEnvironment().tasks("train")[: episodes // GROUP]
    requests = group_requests(tasks, GROUP, seed=lambda task, n: derive_seed(task.id, n), label="bench")
    gc.collect()
    before, cpu = resident(), time.process_time()
    groups, metrics = await engine.run(requests)
    cpu = time.process_time() - cpu
    gc.collect()
    after = resident()
    if metrics.statuses["completed"] != episodes or len(metrics.rewards) != episodes:
        raise RuntimeError(f"the episodes went wrong: {metrics.as_dict()}")
    return {
        "most": float(backend.most),
        "lag": 1000 * (metrics.loop_lag_p99 or 0.0),
        "cpu": 1000 * cpu / (episodes * TURNS),
        "under_way": (backend.memory - before) / episodes / 1024,
        "kept": (after - before) / sum(map(len, groups)) / 1024,
        "resident": after / MEGABYTE,
    }


def _alone(episodes: int, seconds: float) -> dict[str, float]:
    """``play`` in a process of its own, whose memory is nobody else's."""
    code = (
        "import asyncio, json; from bench.episodes import play; from grpo_host.backends.event_loop import "
        "new_event_loop; runner = asyncio.Runner(loop_factory=new_event_loop); "
        f"print(json.dumps(runner.run(play({episodes}, {seconds}))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure() -> Report:
    """2,000 for the loop's lag, 10,000 for memory."""
    few, many = _alone(AT_ONCE, SECONDS), _alone(MANY, SECONDS)
    rows = [
        Row(f"{AT_ONCE:,} episodes: answers under way at once, at most", few["most"], ""),
        Row(f"{AT_ONCE:,} episodes: lag of the event loop, p99", few["lag"], "ms", target=Target("≤", 100)),
        Row(f"{AT_ONCE:,} episodes: CPU of a turn", few["cpu"], "ms"),
        Row(f"{MANY:,} episodes: answers under way at once, at most", many["most"], ""),
        Row(f"{MANY:,} episodes: lag of the event loop, p99", many["lag"], "ms"),
        Row(f"{MANY:,} episodes: memory of one that waits for the model", many["under_way"], "kB"),
        Row(f"{MANY:,} episodes: memory of one that has ended, its trajectory", many["kept"], "kB"),
        Row(f"{MANY:,} episodes: the process at the end", many["resident"], "MB"),
    ]
    return Report(
        "Many episodes in one process",
        f"Episodes of {TURNS} model turns, three of which call an async tool, and a reward, all at once in one "
        f"event loop ({event_loop_name()}); an answer of the model takes {SECONDS:g} s and computes nothing. All begin "
        "together and so all go on together: the loop's lag is that of the worst moments. It is asked every "
        "50 ms, as `rollouts/loop_lag_p99` of a run is. Memory is what the process has more than before.",
        rows,
    )


if __name__ == "__main__":
    publish(measure())

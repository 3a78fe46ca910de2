"""Episodes in which one in twenty of everything fails: ``python -m bench.faults [--episodes 2000]``.

Tools, judges, environments and the engine raise, hang or answer nonsense, and the disk refuses a line. Each
fault says which it is, and is looked for in the trajectories and the log: there it must be exactly once. A disk
that refuses ends the run; it is gone on with, and no episode may be lost, doubled or cut.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import itertools
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from bench.report import Report, Row, Target, publish
from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.backends.on_demand import OnDemandBackend
from grpo_host.rollouts.asking import ASKING_FOR
from grpo_host.rollouts.engine import RolloutEngine, group_requests
from grpo_host.rollouts.scoring import RewardSet, WeightedReward
from grpo_host.runs.directory import RunDirectory
from grpo_sdk import (
    Environment,
    Observation,
    Reward,
    StepResult,
    Task,
    Trajectory,
    assistant,
    tool_call,
    user,
)
from grpo_sdk.backend import Backend, Capability, ChatReply, ModelSpec, Sampling
from grpo_sdk.errors import RunError
from grpo_sdk.seeds import derive_seed
from grpo_sdk.tools import ToolLimits

SHARE = 0.05
SAMPLES = 4
STEP = 100
"""Episodes of a batch: what is played is not kept longer, as in a training."""
FAULTS = (
    "tool raises",
    "tool hangs",
    "tool hangs in a thread",
    "tool gives garbage",
    "judge hangs",
    "judge raises",
    "judge talks nonsense",
    "environment reset raises",
    "environment step raises",
    "environment close raises",
    "engine raises",
    "engine hangs",
    "disk is full",
    "disk fails",
)
LINE = "bench/faults.py:"
"""In front of the number of the line that raised."""
SECOND = "beside what ends the run"
"""The log, of a line that the disk refused before another refusal had stopped the episode."""
PARTS = ("tool", "judge", "environment", "engine", "disk")


class FaultError(Exception):
    """What parts raise."""


@dataclass
class Plan:
    """Which fault comes where: chosen by the episode's id, whenever it is played."""

    seconds: float
    """Limit of a call; what hangs takes three times as long."""
    happened: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Episode and fault."""
    failing: dict[str, set[str]] = field(default_factory=dict)

    def fault_of(self, episode: str, part: str) -> str | None:
        """The fault of ``part`` in ``episode``, if it has one."""
        draw = random.Random(derive_seed(episode, part))
        return (
            draw.choice([name for name in FAULTS if name.startswith(part)]) if draw.random() < SHARE else None
        )

    def now(self, part: str, what: str = "") -> str | None:
        """The fault that comes now, in the episode of this context, counted; ``what`` it is, if it may be one alone."""
        episode = ASKING_FOR.get()
        fault = self.fault_of(episode, part)
        if fault is None or (what and what not in fault):
            return None
        self.happened[episode, fault] += 1
        return fault

    def raised(self, fault: str) -> FaultError:
        """Says which it is."""
        return FaultError(f"<{fault}> of {ASKING_FOR.get()}")


class Engine(Backend):
    """Calls the tool, then says goodbye."""

    capabilities = frozenset({Capability.CHAT, Capability.TOOLS, Capability.SEED})

    def __init__(self, plan: Plan) -> None:
        super().__init__(ModelSpec("scripted"))
        self.plan = plan

    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        await asyncio.sleep(0)
        if any(message["role"] == "tool" for message in messages):
            return ChatReply(assistant(f"Your order comes on {sampling.seed}."))
        match fault := self.plan.now("engine"):
            case "engine raises":
                raise self.plan.raised(fault)
            case "engine hangs":
                await asyncio.sleep(3 * self.plan.seconds)
        return ChatReply(assistant("", [tool_call("look_up", '{"order": "A1"}', "call_0")]))


class JudgeModel(Backend):
    """Gives a number."""

    capabilities = frozenset({Capability.CHAT})

    def __init__(self, plan: Plan) -> None:
        super().__init__(ModelSpec("judge"))
        self.plan = plan

    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        match fault := self.plan.now("judge"):
            case "judge hangs":
                await asyncio.sleep(3 * self.plan.seconds)
            case "judge raises":
                raise self.plan.raised(fault)
            case "judge talks nonsense":
                return ChatReply(assistant(f"<{fault}> of {ASKING_FOR.get()}: lovely!"))
        return ChatReply(assistant("0.5"))


class Judged(Reward):
    """What the judge says."""

    def __init__(self, judge: Backend) -> None:
        self.judge = judge

    async def score(self, trajectory: Trajectory) -> float:
        reply = await self.judge.chat([user(trajectory.final_text)], Sampling())
        return float(reply.message["content"])


class Shop(Environment):
    """One question, one answer."""

    plan: ClassVar[Plan]

    def tasks(self, split: str) -> list[Task]:
        return []

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._fail("reset")
        return Observation([user(f"Where is my order {task.id}?")])

    async def step(self, action: Any) -> StepResult:
        self._fail("step")
        return StepResult(done=True)

    async def close(self) -> None:
        self._fail("close")

    def _fail(self, method: str) -> None:
        if fault := self.plan.now("environment", method):
            raise self.plan.raised(fault)


def make_tool(plan: Plan) -> Any:
    """``look_up``, which fails as planned."""

    async def look_up(order: str) -> Any:
        """Look an order up."""
        match fault := plan.now("tool"):
            case "tool raises":
                raise plan.raised(fault)
            case "tool hangs":
                await asyncio.sleep(3 * plan.seconds)
            case "tool hangs in a thread":
                await asyncio.to_thread(time.sleep, 3 * plan.seconds)
            case "tool gives garbage":
                return f"<{fault}> of {ASKING_FOR.get()}".encode()
        return f"{order} is on its way"

    return look_up


class Disk(type(Path())):  # type: ignore[misc]
    """A file of which a planned write fails once, after half of it."""

    plan: Plan

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = super().open(mode, *args, **kwargs)
        if "a" not in mode:
            return file
        write, plan = file.write, self.plan

        def written(line: bytes) -> int:
            episode = Trajectory.from_json(line).id
            fault = plan.fault_of(episode, "disk")
            if fault is None or plan.happened[episode, fault]:
                return int(write(line))
            plan.happened[episode, fault] += 1
            write(line[: len(line) // 2])
            number = errno.ENOSPC if fault == "disk is full" else errno.EIO
            raise OSError(number, os.strerror(number))

        return _Writing(file, written)


@dataclass
class _Writing:
    file: Any
    write: Any

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def tell(self) -> int:
        return int(self.file.tell())

    def truncate(self, size: int) -> None:
        self.file.truncate(size)


class Directory(RunDirectory):
    """A run's directory on such a disk."""

    plan: ClassVar[Plan]

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        disk = Disk(self.trajectories)
        disk.plan = self.plan
        self.trajectories = disk


@dataclass
class Found:
    """What the records say: each must name its plugin and method, the fault and the episode."""

    plan: Plan
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    """Failures that nobody made."""

    def note(self, episode: str, part: str, text: str, limits: Mapping[str, str], *needed: str) -> None:
        """Count the fault that ``text`` is about; ``limits`` gives what a fault that raises nothing leads to."""
        fault = self.plan.fault_of(episode, part) or ""
        words = [limits[fault]] if fault in limits else [*needed, f"<{fault}> of {episode}"]
        if fault and all(word in text for word in words):
            self.faults[episode, fault] += 1
        else:
            self.unexplained.append(f"{episode}: {text}")

    def look_at(self, item: Trajectory) -> None:
        """Find the faults of one episode."""
        if item.error and item.error.startswith("environment"):
            method = (self.plan.fault_of(item.id, "environment") or " ? ").split()[1]
            self.note(item.id, "environment", item.error, {}, f'environment "shop": {method}()', LINE)
        elif item.error:
            limits = {"engine hangs": "the model did not answer within"}
            self.note(item.id, "engine", item.error, limits, "FaultError", LINE)
        for run in (run for turn in item.turns for run in turn.tools if run.error):
            late = "look_up: no answer within"
            limits = {
                "tool hangs": late,
                "tool hangs in a thread": late,
                "tool gives garbage": "bytes",
            }
            self.note(item.id, "tool", f"{run.name}: {run.error}", limits, "look_up: FaultError")
        for name, record in item.rewards.items():
            if record.error:
                limits = {"judge hangs": "judged: TimeoutError: no score within"}
                self.note(item.id, "judge", f"{name}: {record.error}", limits, "judged: ", LINE)

    def look_at_log(self, texts: Sequence[str]) -> None:
        """Find what failed after its episode's end."""
        for text in texts:
            self.note(_episode(text), "environment", text, {}, 'environment "shop": close()', LINE)

    def look_at_stops(self, texts: Sequence[str]) -> None:
        """Find the faults of the disk in what ended the run."""
        planned = [key for key in self.plan.happened if key[1].startswith("disk")]
        for text, (episode, fault) in itertools.zip_longest(texts, planned, fillvalue=("", "")):
            number = errno.ENOSPC if fault == "disk is full" else errno.EIO
            if all(word in text for word in (os.strerror(number), "trajectories.jsonl", "--resume")):
                self.faults[episode, fault] += 1
            else:
                self.unexplained.append(f"{text}{fault}")


class _Kept(logging.Handler):
    """Keeps what belongs to no trajectory: failures of ``close``, and a second one of the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "close()" in text or SECOND in text:
            self.texts.append(text)


@contextmanager
def kept_log() -> Any:
    """What the host logs meanwhile about ``close``."""
    kept, logger = _Kept(), logging.getLogger("grpo_host")
    before = logger.propagate
    logger.addHandler(kept)
    logger.propagate = False
    try:
        yield kept.texts
    finally:
        logger.propagate = before
        logger.removeHandler(kept)


def resident() -> float:
    """This process's memory, MB, with what waits for the collector: that it comes is part of being flat."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass
class Played:
    """A whole run with faults."""

    trajectories: list[Trajectory]
    found: Found
    plan: Plan
    seconds: float
    resumed: int
    memory: dict[int, float]
    """MB after so many episodes."""


async def play(folder: Path, episodes: int, seconds: float, concurrency: int, looks: Sequence[int]) -> Played:
    """Play ``episodes`` in ``folder``; a call may take ``seconds``."""
    plan = Shop.plan = Directory.plan = Plan(seconds)
    judge = OnDemandBackend(JudgeModel(plan))
    limits = AgentLimits(turn_seconds=seconds, tools=ToolLimits(seconds=seconds))
    directory = Directory(folder).acquire()
    stops: list[str] = []
    resumed = 0
    written: set[str] = set()

    def kept(trajectory: Trajectory) -> None:
        written.add(trajectory.id)

    memory: dict[int, float] = {}
    engine = RolloutEngine(
        Agent(Engine(plan), tools=(make_tool(plan),), limits=limits),
        Shop,
        RewardSet([WeightedReward("judged", Judged(judge), seconds=seconds)], concurrency=concurrency),
        environment_name="shop",
        concurrency=concurrency,
        observers=[directory.append_trajectory, kept],
        max_consecutive_failures=100,
    )
    began = time.perf_counter()
    with kept_log() as logged:
        for step in range(episodes // STEP):
            tasks = [Task(f"task-{step}-{index}") for index in range(STEP // SAMPLES)]
            groups = group_requests(
                tasks, SAMPLES, seed=lambda task, n: derive_seed(task.id, n), label=str(step)
            )
            while groups:
                before = len(logged)
                try:
                    await engine.run(groups)
                    break
                except RunError as problem:
                    if not isinstance(problem.__cause__, OSError):
                        raise
                    stops += [str(problem), *(text for text in logged[before:] if SECOND in text)]
                    resumed += 1
                    directory.release()
                    directory = Directory(folder).acquire()
                    engine.observers = [directory.append_trajectory, kept]
                    # Episodes that the end of the run cut short are played anew, and their faults come again.
                    logged[before:] = [text for text in logged[before:] if _episode(text) in written]
                    for key in [key for key in plan.happened if key[1].split()[0] != "disk"]:
                        if key[0].startswith(f"{step}/") and key[0] not in written:
                            del plan.happened[key]
                    groups = [rest for group in groups if (rest := [r for r in group if r.id not in written])]
            if (done := (step + 1) * STEP) in looks:
                memory[done] = resident()
    took = time.perf_counter() - began
    await judge.close()
    trajectories = list(directory.read_trajectories())
    directory.release()
    found = Found(plan)
    for trajectory in trajectories:
        found.look_at(trajectory)
    found.look_at_log(logged)
    found.look_at_stops(stops)
    return Played(trajectories, found, plan, took, resumed, memory)


def _episode(text: str) -> str:
    return text.partition("> of ")[2].split(" ")[0]


def measure(episodes: int) -> Report:
    """Play, and compare what happened with what was recorded."""
    looks = (episodes // 4, episodes)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        played = asyncio.run(play(Path(folder), episodes, 3.0, 64, looks))
    happened, found = played.plan.happened, played.found.faults
    ids = Counter(item.id for item in played.trajectories)
    rows = [Row("episodes", len(ids), "", None, "", Target("≥", episodes))]
    rows.append(
        Row("of them written more than once", sum(n > 1 for n in ids.values()), "", None, "", Target("≤", 0))
    )
    for part in PARTS:
        injected = sum(n for (_, fault), n in happened.items() if fault.startswith(part))
        rows.append(Row(f"faults of {part}: made", injected, ""))
    lost, more = happened - found, found - happened
    rows.append(Row("faults without a record", lost.total(), "", None, "", Target("≤", 0)))
    rows.append(Row("records without a fault, or twice", more.total(), "", None, "", Target("≤", 0)))
    rows.append(Row("failures that nobody made", len(played.found.unexplained), "", None, "", Target("≤", 0)))
    rows.append(Row("stops by the disk, each gone on with", played.resumed, ""))
    early, late = (played.memory[at] for at in looks)
    rows.append(Row(f"memory after {looks[0]} episodes", early, "MB"))
    rows.append(
        Row(f"memory after {looks[1]} episodes", late, "MB", late / early, "then", Target("≤", 1.1, "ratio"))
    )
    rows.append(Row("all of it", played.seconds, "s"))
    for text in played.found.unexplained[:10]:
        print(text, file=sys.stderr)
    print(*lost.most_common(10), *more.most_common(10), sep="\n", file=sys.stderr)
    return Report(
        "Faults",
        f"{episodes} episodes of a scripted model with one tool and a judge, 64 side by side. In 5 % of the episodes "
        "each the tool, the judge, the environment, the engine and the disk fail: they raise, hang past their limit, "
        "or give nonsense; a line of trajectories.jsonl is cut and refused (ENOSPC, EIO), which ends the run, and it "
        "is gone on with. Each fault must have exactly one record with the name of its plugin and method. Memory is "
        "looked at between two batches of 100, and the collector is not called for it.",
        rows,
    )


def main() -> None:
    """Parse how many episodes, and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sys.argv = [sys.argv[0], *(["--json"] if options.json else [])]
    publish(measure(options.episodes))


if __name__ == "__main__":
    main()

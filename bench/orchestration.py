"""What an episode costs besides the model: ``python -m bench.orchestration [--json]``.

Every client plays the same episodes (bench.tool_episodes) in the same event loop. The server,
bench/mock_openai_server.py, is a process of its own; it is started anew for each run, so that its
seeded latencies are the same for all.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.http_peers import AiohttpClient, BareClient, play_all
from bench.report import ROOT, Report, Row, Target, publish
from bench.tool_episodes import TURNS, LookupEnvironment, run_episodes, script
from grpo_host.backends.event_loop import new_event_loop
from grpo_sdk.backend import Backend, ChatReply, ModelSpec, Sampling
from grpo_sdk.messages import Message, ToolSchema
from grpo_sdk.testing import ScriptedBackend
from grpo_sdk.toolbox import Toolbox

ROUNDS = 3
EPISODES = 2000
CPU_CONCURRENCY, WALL_CONCURRENCY = 32, 256
WARM_UP = 256
MEAN, SIGMA = 0.05, 0.5

Play = Callable[[int, int], Awaitable[None]]
"""Plays (episodes, at this concurrency)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took."""

    cpu_ms: float
    """Of this process, a model turn."""
    wall: float
    """Seconds."""


async def timed(play: Play, *, concurrency: int) -> Cost:
    """Play once to warm up (imports, connections), then measure."""
    await play(WARM_UP, concurrency)
    cpu, wall = time.process_time(), time.perf_counter()
    await play(EPISODES, concurrency)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Cost(cpu / (EPISODES * TURNS) * 1000, wall)


def latency(generator: random.Random) -> float:
    """Seconds, as the server draws them: the logarithm's mean is the one that gives ``MEAN``."""
    return generator.lognormvariate(math.log(MEAN) - SIGMA**2 / 2, SIGMA)


class LatentBackend(ScriptedBackend):
    """A scripted backend in this process with the server's latencies."""

    def __init__(self) -> None:
        super().__init__(script=script)
        self._random = random.Random(0)

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        await asyncio.sleep(latency(self._random))
        return await super().chat(messages, sampling, tools)


@contextmanager
def server(mean: float) -> Iterator[int]:
    """The mock server's port."""
    command = [sys.executable, str(ROOT / "bench" / "mock_openai_server.py"), "--port", "0"]
    command += ["--mean", str(mean), "--sigma", str(SIGMA), "--tool-turns", str(TURNS - 1)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rpartition(":")[2].partition("/")[0])
        finally:
            process.terminate()


async def scripted(concurrency: int, mean: float) -> Cost:
    """Our engine on a backend in this process."""
    backend = LatentBackend() if mean else ScriptedBackend(script=script)
    return await _engine(backend, concurrency)


async def _engine(backend: Backend, concurrency: int, **groups: Any) -> Cost:
    return await timed(
        lambda count, n: run_episodes(backend, count, concurrency=n, **groups), concurrency=concurrency
    )


async def ours(concurrency: int, mean: float, **groups: Any) -> Cost:
    """Our engine on the backend ``openai``."""
    from grpo_backends.openai_http import OpenAIChatBackend

    with server(mean) as port:
        backend = OpenAIChatBackend(ModelSpec("mock"), base_url=f"http://127.0.0.1:{port}/v1")
        await backend.start()
        try:
            return await _engine(backend, concurrency, **groups)
        finally:
            await backend.close()


async def peer(client_class: type[BareClient | AiohttpClient], concurrency: int, mean: float) -> Cost:
    """A bare loop on a bare client."""
    schemas = Toolbox(LookupEnvironment().tools()).schemas
    with server(mean) as port:
        client = client_class("127.0.0.1", port)
        try:
            return await timed(
                lambda count, n: play_all(client.post, schemas, count, concurrency=n), concurrency=concurrency
            )
        finally:
            await client.close()


SCORED = "ours over HTTP, tasks one by one, each scored"
CLIENTS: dict[str, Callable[[int, float], Awaitable[Cost]]] = {
    "ours, scripted backend in process": scripted,
    "ours, `openai` backend over HTTP": ours,
    SCORED: lambda concurrency, mean: ours(concurrency, mean, group=1, scored=True),
    "bare asyncio client": lambda concurrency, mean: peer(BareClient, concurrency, mean),
    "aiohttp loop": lambda concurrency, mean: peer(AiohttpClient, concurrency, mean),
}


def best(concurrency: int, mean: float) -> dict[str, Cost]:
    """The best of three rounds of each client, in turns: others on the machine only ever add."""
    costs: dict[str, list[Cost]] = {name: [] for name in CLIENTS}
    for _ in range(ROUNDS):
        for name, run in CLIENTS.items():
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                costs[name].append(runner.run(_await(run, concurrency, mean)))
    return {
        name: Cost(min(cost.cpu_ms for cost in taken), min(cost.wall for cost in taken))
        for name, taken in costs.items()
    }


async def _await(run: Callable[[int, float], Awaitable[Cost]], concurrency: int, mean: float) -> Cost:
    return await run(concurrency, mean)


def simulated(seed: int) -> float:
    """Wall time of the episodes where only the model takes time: slots stand empty at the end."""
    generator = random.Random(seed)
    slots = [0.0] * WALL_CONCURRENCY
    for _ in range(EPISODES):
        heapq.heapreplace(slots, slots[0] + sum(latency(generator) for _ in range(TURNS)))
    return max(slots)


def measure() -> Report:
    """CPU a turn without latency, and wall time against the ideal with latency."""
    cpu = best(CPU_CONCURRENCY, 0)
    wall = best(WALL_CONCURRENCY, MEAN)
    ideal = EPISODES * TURNS * MEAN / WALL_CONCURRENCY
    floor = statistics.median(simulated(seed) for seed in range(20))
    bounds = dict(zip(CLIENTS, (0.2, 0.7), strict=False))
    limit = "bare asyncio client"
    rows = [
        Row(
            f"client CPU: {name}",
            cost.cpu_ms,
            "ms/turn",
            None if name == limit else cost.cpu_ms / cpu[limit].cpu_ms,
            "" if name == limit else "bare client",
            Target("≤", bounds[name]) if name in bounds else None,
        )
        for name, cost in cpu.items()
    ]
    rows += [
        Row(
            f"wall time: {name}",
            cost.wall,
            "s",
            cost.wall / ideal,
            "ideal",
            Target("≤", 1.3, "ratio") if name.startswith("ours") else None,
        )
        for name, cost in wall.items()
    ]
    rows.append(Row("wall time: a client without any cost, simulated", floor, "s", floor / ideal, "ideal"))
    scored, bare = wall[SCORED].wall, wall[limit].wall
    parts = {
        "places that stand empty at the end": floor - ideal,
        "a bare client on this machine": bare - floor,
        "ours": scored - bare,
    }
    rows += [
        Row(f"beyond the ideal, one by one, scored: {name}", part, "s", part / ideal, "ideal")
        for name, part in parts.items()
    ]
    return Report(
        "Orchestration",
        f"{EPISODES:,} episodes of {TURNS} model turns, three of which call an async tool; best of {ROUNDS} "
        f"rounds. Client CPU: {CPU_CONCURRENCY} episodes at once, no latency. Wall time: {WALL_CONCURRENCY} "
        f"at once, lognormal latency of mean {MEAN * 1000:g} ms (sigma {SIGMA}); the ideal is episodes times "
        f"turns times mean latency by concurrency, {ideal:.2f} s. Tasks are played in groups of eight without a "
        "reward, where nothing else is said. Over HTTP the mock server is a process of "
        "its own. The bare client and the aiohttp loop send the same requests and run the tool, but keep no "
        "records, limits or validation. What the wall time of the tasks that are played one by one has beyond "
        "the ideal is in three rows of its own.",
        rows,
        [f"Event loop of all clients: {event_loop_name()}."],
    )


def event_loop_name() -> str:
    """uvloop or asyncio."""
    loop = new_event_loop()
    loop.close()
    return type(loop).__module__.partition(".")[0]


if __name__ == "__main__":
    publish(measure())

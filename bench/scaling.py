"""What our side costs an episode with many replicas and ranks: ``python -m bench.scaling [--json]``.

docs/scaling.md adds these to the costs of sampling and of a training pass. The replicas are servers that speak
vLLM's protocol and compute nothing, so that what is measured is ours alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.report import ROOT, Report, Row, publish
from bench.rollouts_ours import desk_engine, tasks
from bench.rollouts_workload import CONTEXT, MAX_TOKENS, MODEL, TURNS
from grpo_backends.vllm_server import VllmServerBackend
from grpo_host.backends.event_loop import new_event_loop
from grpo_host.models.resolve import resolve_model
from grpo_host.rollouts.engine import group_requests
from grpo_host.runs.directory import RunDirectory
from grpo_sdk.backend import ModelSpec
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Trajectory

REPLICAS, TASKS, GROUP, ROUNDS = 4, 32, 8, 6
EPISODES = TASKS * GROUP
SAMPLED = 28
"""Ids an answer, about as many as the untrained model says (bench.rollouts)."""


def measure() -> Report:
    """Each cost is the least of a few rounds, in CPU time: others on the machine only ever add."""
    path = resolve_model(MODEL).path
    with tempfile.TemporaryDirectory() as folder, _servers() as addresses:
        spec = ModelSpec(MODEL, path=path, context=CONTEXT)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            turn, played = runner.run(_play(VllmServerBackend(spec, servers=addresses)))
        writing, size = _write(played, Path(folder))
        giving = _give(played)
    rows_of = [item.ledger.sequences[0] for item in played if item.ledger]
    own = sum(len(row.ids) - _begins_alike(row.ids, rows_of[0].ids) for row in rows_of[1:GROUP]) / (GROUP - 1)
    rows = [
        Row("CPU of a turn: engine of rollouts, choice of a replica, request, reply", 1000 * turn, "ms"),
        Row("CPU of giving a trajectory to the other ranks", 1000 * giving, "ms"),
        Row("a trajectory as ranks give it", len(pickle.dumps(played)) / len(played) / 1000, "kB"),
        Row("CPU of writing a trajectory", 1000 * writing, "ms"),
        Row("a trajectory as it is written", size / len(played) / 1000, "kB"),
        Row("tokens of an episode", sum(len(row.ids) for row in rows_of) / len(played), ""),
        Row("of them not those that its group begins with", own, ""),
    ]
    return Report(
        "Scaling",
        f"{EPISODES} episodes of order_desk as `bench rollouts` plays them ({TURNS} model turns, three look-ups, "
        f"{SAMPLED} sampled tokens a turn), 32 at once, on the backend `vllm_server` with {REPLICAS} replicas that "
        "compute nothing; CPU of this process, in its engine of rollouts and its HTTP client together. Then two "
        "processes give each other their halves of the trajectories (gloo), and one writes them to "
        f"trajectories.jsonl, as a run does. The least of {ROUNDS} rounds.",
        rows,
        ["Run beside other jobs: CPU, not walls."],
    )


async def _play(backend: VllmServerBackend) -> tuple[float, list[Trajectory]]:
    """Seconds of CPU a turn, and what was played."""
    await backend.start()
    try:
        engine = desk_engine(backend, max_tokens=MAX_TOKENS, turns=TURNS, concurrency=32)
        some = [tasks()[index % len(tasks())] for index in range(TASKS)]
        requests = group_requests(some, GROUP, seed=lambda task, n: derive_seed(task.id, n), label="bench")
        spent = []
        for _ in range(ROUNDS + 1):  # the first warms up
            before = time.process_time()
            groups, metrics = await engine.run(requests)
            spent.append(time.process_time() - before)
            if metrics.statuses["completed"] != EPISODES or metrics.turns != EPISODES * TURNS:
                raise RuntimeError(f"the episodes went wrong: {metrics.as_dict()}")
        return min(spent) / (EPISODES * TURNS), [item for group in groups for item in group]
    finally:
        await backend.close()


def _write(played: Sequence[Trajectory], folder: Path) -> tuple[float, int]:
    """Seconds of CPU a trajectory, and the bytes of all."""
    spent = []
    for number in range(ROUNDS):
        directory = RunDirectory(folder / str(number))
        directory.path.mkdir()
        before = time.process_time()
        for trajectory in played:
            directory.append_trajectory(trajectory)
        spent.append(time.process_time() - before)
    return min(spent) / len(played), sum(file.stat().st_size for file in directory.path.glob("trajectories*"))


def _give(played: Sequence[Trajectory]) -> float:
    """Seconds of CPU a trajectory of one of two ranks, each of which has the other's afterwards."""
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        file.write(pickle.dumps(list(played)))
        file.flush()
        command = [sys.executable, "-m", "bench.scaling", "--rank"]
        ranks = [
            subprocess.Popen([*command, str(rank), str(port), file.name], cwd=ROOT, stdout=subprocess.PIPE)
            for rank in (0, 1)
        ]
        said = [rank.communicate(timeout=120)[0] for rank in ranks]
    return float(said[0].split()[-1]) / len(played)


def _rank(rank: int, port: int, path: Path) -> float:
    import torch.distributed as dist

    from grpo_host.training.ranks.process_group import Ranks

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    played = pickle.loads(path.read_bytes())
    own = played[rank::2]
    ranks = Ranks(rank, 2)
    ranks.gather(own[:1])  # connections
    spent = []
    for _ in range(ROUNDS):
        before = time.process_time()
        everyone = ranks.gather(own)
        spent.append(time.process_time() - before)
        if len(everyone) != len(played):
            raise RuntimeError(f"{len(everyone)} trajectories of {len(played)} came")
    dist.destroy_process_group()
    return min(spent)


def _begins_alike(ids: Sequence[int], other: Sequence[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), len(ids))


@contextlib.contextmanager
def _servers() -> Iterator[list[str]]:
    """The addresses of replicas, each a process."""
    with contextlib.ExitStack() as stack:
        addresses = []
        for number in range(REPLICAS):
            command = [sys.executable, "-m", "bench.scaling", "--replica", str(number)]
            process = stack.enter_context(
                subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.terminate)
            assert process.stdout is not None
            addresses.append(process.stdout.readline().strip())
        yield addresses


async def _serve(seed: int) -> None:
    import httptools

    from bench.mock_openai_server import http_response

    draw = random.Random(seed)

    class Replica(asyncio.Protocol):
        """One connection."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport
            self.parser = httptools.HttpRequestParser(self)
            self.body = b""

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_body(self, body: bytes) -> None:
            self.body += body

        def on_message_complete(self) -> None:
            asked = json.loads(self.body or b"{}")
            self.body = b""
            count = min(SAMPLED, asked.get("max_tokens", 0))
            probed = "allowed_token_ids" in asked
            ids = (
                asked["allowed_token_ids"] if probed else [draw.randrange(100, 40_000) for _ in range(count)]
            )
            logprobs = [0.0 if probed else -draw.expovariate(1) for _ in ids]
            choice = {"token_ids": ids, "logprobs": {"token_logprobs": logprobs}, "finish_reason": "length"}
            model = {"id": MODEL, "max_model_len": CONTEXT, "parent": None}
            self.transport.write(http_response({"choices": [choice], "data": [model]}))

    server = await asyncio.get_running_loop().create_server(Replica, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Measure, or be one of the processes that this takes."""
    if sys.argv[1:2] == ["--replica"]:
        asyncio.run(_serve(int(sys.argv[2])))
    elif sys.argv[1:2] == ["--rank"]:
        print(_rank(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
    else:
        publish(measure())


if __name__ == "__main__":
    main()

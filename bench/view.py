"""How fast a run's trajectories are indexed and opened: ``python -m bench.view [--json]``."""

from __future__ import annotations

import gzip
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from bench.report import Report, Row, Target, publish
from grpo_host.viewer.index import BATCH, Index
from grpo_host.viewer.lines import JsonLines, files_of, row_of
from grpo_host.viewer.search import Wanted

TRAJECTORIES, GROUP, STEP = 100_000, 8, 64
PROMPT, SAMPLED = 180, 60
"""Tokens, as order_desk's episodes have them: a line of 5 kB."""
ROTATED = 64 << 20
AGENT_YAML = "name: bench\nmodel: {name: none}\ntraining: {steps: 1600, group_size: 8}\n"


def main() -> None:
    """Write a run, index it, open it."""
    with tempfile.TemporaryDirectory(prefix="bench-view-") as folder:
        run = Path(folder) / "bench" / "20260101-000000-0000"
        run.mkdir(parents=True)
        write_run(run)
        publish(measure(run))


def write_run(run: Path) -> None:
    """A run of ``TRAJECTORIES`` as training leaves it: full files are compressed."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(20_000)]
    (run / "agent.yaml").write_text(AGENT_YAML)
    (run / "report.json").write_text('{"steps": 1600}')
    with (run / "metrics.jsonl").open("wb") as metrics:
        for step in range(1, TRAJECTORIES // STEP + 1):
            line = {f"series/{number}": rng.random() for number in range(50)}
            metrics.write(orjson.dumps({"step": step, "reward": rng.random(), **line}) + b"\n")
    written, size, part = [], 0, 0
    for line in _lines(rng, words):
        written.append(line)
        size += len(line)
        if size >= ROTATED:
            part += 1
            with gzip.open(run / f"trajectories.{part:04d}.jsonl.gz", "wb", 1) as packed:
                packed.write(b"".join(written))
            written, size = [], 0
    (run / "trajectories.jsonl").write_bytes(b"".join(written))


def _lines(rng: random.Random, words: list[str]) -> Iterator[bytes]:
    ledgers = [orjson.dumps(_ledger(rng)) for _ in range(500)]
    for number in range(TRAJECTORIES):
        step, task, sample = number // STEP + 1, number // GROUP % (STEP // GROUP), number % GROUP
        said = " ".join(rng.choices(words, k=40))
        reward = rng.random()
        before = {
            "format": 1,
            "id": f"{step}/task-{task}/{sample}",
            "environment": "bench",
            "task": {"id": f"task-{task}", "data": {"order": said[:40]}, "split": "train"},
            "status": "completed",
            "stop_reason": "done",
            "messages": [
                {"role": "system", "content": "You help customers with their orders."},
                {"role": "user", "content": f"Where is my order {number}? {said[:60]}"},
                {"role": "assistant", "content": "", "tool_calls": [_call(number)]},
                {"role": "tool", "content": said[60:120], "tool_call_id": "call_0", "name": "lookup"},
                {"role": "assistant", "content": said[120:]},
            ],
            "turns": [_turn("tool_calls", True), _turn("stop", False)],
        }
        after = {
            "outcome": {"success": reward > 0.5},
            "rewards": {"right": {"value": reward, "weight": 1.0, "parts": {}, "explanation": ""}},
            "reward": reward,
            "sample": sample,
        }
        ledger = ledgers[number % len(ledgers)]
        yield b'%s,"ledger":%s,%s\n' % (orjson.dumps(before)[:-1], ledger, orjson.dumps(after)[1:])


def _ledger(rng: random.Random) -> dict[str, Any]:
    mask = [0] * PROMPT + [1] * SAMPLED
    sequence = {
        "ids": rng.choices(range(49_000), k=PROMPT + SAMPLED),
        "mask": mask,
        "logprobs": [-rng.random() if sampled else 0.0 for sampled in mask],
        "versions": [7 if sampled else -1 for sampled in mask],
        "spans": [],
    }
    return {"sequences": [sequence]}


def _call(number: int) -> dict[str, Any]:
    function = {"name": "lookup", "arguments": f'{{"order_id": "N{number}"}}'}
    return {"id": "call_0", "type": "function", "function": function}


def _turn(reason: str, tool: bool) -> dict[str, Any]:
    tools = [{"name": "lookup", "call_id": "call_0", "seconds": 0.1, "error": None}] if tool else []
    return {
        "prompt_tokens": 90,
        "completion_tokens": 30,
        "seconds": 1.0,
        "finish_reason": reason,
        "tools": tools,
    }


def measure(run: Path) -> Report:
    """Index ``run`` from nothing, then open it as the page does."""
    size = sum(file.size for file in files_of(run))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = Index(run)
    began, spent = time.perf_counter(), time.process_time()
    index.refresh()
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    parsing, writing = alone(run)
    opened = [_seconds(lambda: open_run(run)) for _ in range(5)]
    searched = [_seconds(partial(open_run, run, q=word)) for word in ("order", "N777", '"is my order"')]
    rows = [
        Row("indexing, uncompressed JSONL", size / 1e6 / seconds, "MB/s", target=Target("≥", 80)),
        Row("the same by CPU seconds", size / 1e6 / spent, "MB/s"),
        Row("reading and parsing alone, by CPU seconds", size / 1e6 / parsing, "MB/s"),
        Row("SQLite's part alone, by CPU seconds", size / 1e6 / writing, "MB/s"),
        Row("memory that indexing adds", grown / 1024, "MiB", target=Target("≤", 200)),
        Row("the index, of the JSONL", index.path.stat().st_size / size, "x"),
        Row("opening the run: its page, metrics, first trajectories", statistics.median(opened), "s",
            target=Target("≤", 1)),
        Row("the slowest of three searches", max(searched), "s", target=Target("≤", 1)),
    ]  # fmt: skip
    return Report(
        "A run in the viewer",
        f"A run of {TRAJECTORIES:,} trajectories ({size / 1e6:.0f} MB of JSONL, "
        f"{len(list(files_of(run)))} files, compressed but the last). Opened as by the first request "
        "of a viewer that has just begun.",
        rows,
    )


def alone(run: Path) -> tuple[float, float]:
    """The CPU seconds of reading and parsing, and of SQLite's FTS5."""
    index = Index(run, cache=run / "alone")
    index.path = run / "alone.sqlite"
    parsing = writing = 0.0
    with closing(index._open()) as database:
        for file in files_of(run):
            began = time.process_time()
            lines = JsonLines(run / file.name).lines(0)
            while rows := [(at, len(line) + 1, row_of(line)) for at, line in islice(lines, BATCH)]:
                parsed = time.process_time()
                index._write(database, 0, rows, None)
                written = time.process_time()
                parsing, writing, began = parsing + parsed - began, writing + written - parsed, written
    index._remove()
    return parsing, writing


def open_run(run: Path, **wanted: Any) -> None:
    """What the page asks for when a run is opened."""
    from grpo_host.viewer import api
    from grpo_host.viewer.viewed import Viewed

    viewed = Viewed([run.parent.parent])
    item = viewed.find(run.name)
    api.show_run(run.name, item)
    api.metrics(item)
    api.trajectories(item, Wanted(**wanted))
    viewed.close()


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

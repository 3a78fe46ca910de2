"""Trainings that sample ahead on two real ``vllm serve``, and what is killed: ``python -m bench.ahead [--json]``.

A run that nobody touches; one whose trainer gets kill -9 in the middle of its second step and goes on with
``--resume``; one of whose replicas is killed while episodes are under way; one that gets Ctrl-C and goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.chaos import tiny_model
from bench.replicas import kill_replica
from bench.report import ROOT, Report, Row, Target, publish
from grpo_host.runs.directory import RunDirectory

STEPS, TASKS, GROUP, HELD_OUT = 4, 2, 4, 4
EPISODES = TASKS * GROUP
"""Of a step."""
LIMIT = 900.0
"""Seconds that a run may take, its servers' start included."""
AGENT = """\
name: ahead
model: {{name: "{model}", context: 256, dtype: float32}}
backend: {{name: vllm_server, options: {{replicas: 2, kv_cache_gib: 0.1}}}}
environment: {{name: arithmetic, options: {{train_tasks: 40, held_out_tasks: {held_out}}}}}
rewards: [{{name: length}}]
sampling: {{max_tokens: 64}}
training: {{steps: {steps}, tasks_per_step: {tasks}, group_size: {group}, learning_rate: 1.0e-3, save_every: 1, max_staleness: 1}}
evaluation: {{episodes: {held_out}, before: false}}
output: "{output}"
"""


class Training:
    """``grpo-host run`` in a folder of its own."""

    def __init__(self, folder: Path, model: Path) -> None:
        folder.mkdir()
        self.folder = folder
        sizes = {"steps": STEPS, "tasks": TASKS, "group": GROUP, "held_out": HELD_OUT}
        (folder / "agent.yaml").write_text(AGENT.format(model=model, output=folder / "runs", **sizes))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Begin, or go on."""
        code = "import sys; from grpo_host.cli import main; sys.exit(main())"
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", code, "run", str(self.folder / "agent.yaml"), *words],
                cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def directory(self) -> RunDirectory:
        """The run's."""
        return RunDirectory.find(self.folder / "runs", "ahead")

    def wait(self, process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
        """Until ``ready``; raises ``RuntimeError`` if the run ends before, or takes too long."""
        ends = time.monotonic() + LIMIT
        while not ready():
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError((self.folder / "log").read_text()[-3000:])
            time.sleep(0.05)

    def lines(self, name: str) -> int:
        """How many lines the run's file ``name`` has."""
        found = list(self.folder.glob(f"runs/ahead/*/{name}"))
        return found[0].read_bytes().count(b"\n") if found else 0

    def end(self, process: subprocess.Popen[bytes], code: int = 0) -> None:
        """Wait for the end. Raises ``RuntimeError`` for another exit code."""
        if process.wait(LIMIT) != code:
            raise RuntimeError((self.folder / "log").read_text()[-3000:])

    def left(self) -> int:
        """Processes of the run that are there yet."""
        ends = time.monotonic() + 20  # those of a killed one end a little later
        while (found := sum(self._processes())) and time.monotonic() < ends:
            time.sleep(0.2)
        return found

    def _processes(self) -> Iterator[bool]:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                yield os.readlink(process / "fd" / "1").startswith(str(self.folder))
            except OSError:
                continue

    def wrong(self) -> list[str]:
        """In what the run that ended is not as it should be."""
        metrics = self.directory.read_metrics()
        played = list(self.directory.read_trajectories())
        steps = [item.id.partition("/")[0] for item in played]
        wanted = [str(step) for step in range(1, STEPS + 1) for _ in range(EPISODES)]
        found = {
            "steps": [line["step"] for line in metrics] == list(range(1, STEPS + 1)),
            "episodes": steps == wanted + ["after"] * HELD_OUT
            and len({item.id for item in played}) == len(played),
            "failed": all(item.status == "completed" for item in played),
            "staleness": all(line["rollouts/staleness_max"] <= 1 for line in metrics),
            "ratio": all(abs(line["sampling/importance_sampling_ratio/mean"] - 1) < 0.05 for line in metrics),
            "adapters": not any((self.directory.path / "replicas" / "adapters").iterdir()),
        }
        return [name for name, right in found.items() if not right]

    def tasks(self) -> list[tuple[str, ...]]:
        """Those of each step."""
        of: dict[str, list[str]] = {}
        for item in self.directory.read_trajectories():
            of.setdefault(item.id.partition("/")[0], []).append(item.task.id)
        return [tuple(sorted(set(tasks))) for tasks in of.values()]


def measure() -> Report:
    """All four runs."""
    with tempfile.TemporaryDirectory(prefix="ahead-") as place:
        folder = Path(place)
        model = tiny_model(folder / "model", hidden_size=64, head_dim=32)  # the least that vLLM takes on CPU
        runs = {name: Training(folder / name, model) for name in ("peace", "trainer", "replica", "ctrl-c")}
        found: dict[str, Any] = {name: drive(runs[name]) for name, drive in DRIVES.items()}
        wrong = {name: run.wrong() for name, run in runs.items()}
        order = runs["peace"].tasks()
        wrong |= {f"{name}, tasks": ["order"] for name, run in runs.items() if run.tasks() != order}
        left = sum(run.left() for run in runs.values()) + found["trainer"] + found["ctrl-c"][1]
        stale = [line["rollouts/staleness"] for line in runs["peace"].directory.read_metrics()]
        moved = (runs["replica"].folder / "log").read_text().count("goes to another replica")
    said = [f"{name}: {', '.join(what)}" for name, what in wrong.items() if what]
    rows = [
        Row("runs", len(runs), ""),
        Row(
            "of them with lines, episodes, tasks or adapters that are wrong",
            len(said),
            "",
            target=Target("≤", 0),
        ),
        Row("staleness after the first step, undisturbed", min(stale[1:]), "steps"),
        Row("requests that went to the other replica", moved, "", target=Target("≥", 1)),
        Row("Ctrl-C until the run has ended", found["ctrl-c"][0], "s", target=Target("≤", 60)),
        Row("processes left", left, "", target=Target("≤", 0)),
    ]
    return Report(
        "Sampling ahead",
        f"`grpo-host run` with `training.max_staleness: 1` on two stock `vllm serve` that the run starts, a random "
        f"model of two layers, {STEPS} steps of {EPISODES} episodes: undisturbed; with kill -9 of the trainer in its second "
        "step, then `--resume`; with kill -9 of a replica while episodes are under way; with Ctrl-C, then "
        "`--resume`. Looked at: a line a step and no more, each episode once, the same tasks in the same order, no "
        "token older than one step, a mean ratio of 1 ± 0.05, no adapter left.",
        rows,
        said,
    )


def undisturbed(run: Training) -> None:
    """To its end."""
    run.end(run.start())


def kill_trainer(run: Training) -> int:
    """kill -9 in the second step; how many processes that left."""
    process = run.start()
    run.wait(process, lambda: run.lines("metrics.jsonl") == 1)
    time.sleep(0.5)
    process.kill()
    process.wait()
    left = run.left()
    run.end(run.start("--resume"))
    return left


def kill_one_replica(run: Training) -> None:
    """While the third step is sampled."""
    process = run.start()
    run.wait(process, lambda: run.lines("trajectories.jsonl") >= 2 * EPISODES)
    time.sleep(0.3)
    kill_replica(run.directory.path.resolve() / "replicas" / "replica-0.log")
    run.end(process)


def interrupt(run: Training) -> tuple[float, int]:
    """Seconds until it had ended, and how many processes that left."""
    process = run.start()
    run.wait(process, lambda: run.lines("metrics.jsonl") == 1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    run.end(process, 130)
    took, left = time.monotonic() - began, run.left()
    run.end(run.start("--resume"))
    return took, left


DRIVES: dict[str, Callable[[Training], Any]] = {
    "peace": undisturbed,
    "trainer": kill_trainer,
    "replica": kill_one_replica,
    "ctrl-c": interrupt,
}


if __name__ == "__main__":
    publish(measure())

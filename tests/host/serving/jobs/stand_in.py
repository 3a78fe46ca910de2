"""Stands in for the process of a job: speaks the same files, signals and exit codes, trains nothing.

A step takes ``SECONDS``. The first prompt of job.yaml says what happens: "slow" (long steps), "fail"
(with an error for the user), "break" (without one), "die" (by a signal), "deaf" (to SIGTERM).
``attempts.jsonl`` beside the runs has a line when one begins and one when it ends: two of them that
overlap would be seen there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

from grpo_host.runs.directory import RunDirectory, write_text
from grpo_host.serving.jobs.child import end_with, wait_until_free

SECONDS = 0.05


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args()
    end_with(given.parent)
    run = RunDirectory(given.directory)
    wait_until_free(run, seconds=20)
    run.acquire()
    stopping = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    values = YAML(typ="safe", pure=True).load((run.path / "job.yaml").read_text())
    what = values["environment"]["options"]["prompts"][0]
    write_text(run.agent_yaml, (run.path / "job.yaml").read_text())
    if what == "fail":
        sys.stderr.write(f"Traceback of no interest\nerror: {run.path}/job.yaml:3: the model is not there\n")
        return 2
    if what == "break":
        raise ZeroDivisionError("secret inside")
    attempts = run.path.parent.parent / "attempts.jsonl"
    note(attempts, "begin")
    try:
        return train(run, values["training"]["steps"], what, stopping)
    finally:
        note(attempts, "end")


def train(run: RunDirectory, steps: int, what: str, stopping: list[int]) -> int:
    done = max([0, *(int(p.name.rpartition("-")[2]) for p in run.checkpoints.glob("checkpoint-*"))])
    run.forget_after(done)
    for step in range(done + 1, steps + 1):
        until = time.monotonic() + (0.5 if what in ("slow", "deaf") else SECONDS)
        while time.monotonic() < until:
            if stopping and what != "deaf":
                save(run, step - 1)
                return 128 + stopping[0]
            time.sleep(0.01)
        line = {"step": step, "time": time.time(), "reward": step / 10, "pid": os.getpid()}
        run.append_metrics(line)
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if step % 2 == 0:
            save(run, step)
    run.adapter.mkdir(exist_ok=True)
    (run.adapter / "adapter_config.json").write_text("{}")
    run.write_json(run.report, {"steps": steps, "seconds": {"training": 1.0}})
    return 0


def save(run: RunDirectory, step: int) -> None:
    if step:
        (run.checkpoints / f"checkpoint-{step}").mkdir(parents=True, exist_ok=True)


def note(path: Path, event: str) -> None:
    line = json.dumps({"pid": os.getpid(), "event": event, "time": time.monotonic()})
    with path.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())

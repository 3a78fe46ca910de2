"""``python -m grpo_host.serving.jobs.child DIRECTORY``: the process of one job.

Trains as ``DIRECTORY/job.yaml`` says, like ``grpo-host run``, in DIRECTORY itself: from the beginning,
or from its last checkpoint. Exit codes are those of ``grpo-host run``.

It does not outlive its server: when that dies, it stops as after SIGTERM, with a checkpoint. The next
server that takes the job starts a new one, which waits until this one has let go of the run directory.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_sdk.errors import GrpoError, RunError

if TYPE_CHECKING:
    from grpo_host.plugins import Registry
    from grpo_host.runs.directory import RunDirectory

JOB_YAML = "job.yaml"
"""What the job is, as the server wrote it; agent.yaml is made of it once it has been checked."""
LOOK_EVERY = 0.5
"""Seconds between two looks for the server."""
STOP_SECONDS = 60.0
"""How long a job whose server is gone may take to save where it stands."""
WAIT_SECONDS = 90.0
"""How long another process may keep the run directory: longer than it may take to stop."""
NICENESS = 10
"""Answers to those who chat come first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job. 0: done. 2: something said on a line that begins with ``error:``. 143: stopped."""
    parser = argparse.ArgumentParser(prog="grpo-job")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--plugins")
    given = parser.parse_args(arguments)
    if given.parent is not None:
        end_with(given.parent)
    os.nice(NICENESS)
    from grpo_host.plugins import load_plugins

    registry = load_plugins(None if given.plugins is None else given.plugins.split(","))
    try:
        return train(given.directory, registry)
    except GrpoError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"error: {line}\n")
        return 2


def train(directory: Path, registry: Registry) -> int:
    """Begin or go on with the run in ``directory``. Raises ``GrpoError``."""
    from grpo_host.checks.load import load_checked
    from grpo_host.runs.directory import RunDirectory
    from grpo_host.utils.atomic import write_text
    from grpo_host.utils.quiet import quiet_libraries

    run = RunDirectory(directory)
    wait_until_free(run)
    begun = run.agent_yaml.is_file()
    loaded = load_checked(run.agent_yaml if begun else directory / JOB_YAML, (), registry, "train")
    if not begun:
        from grpo_host.runs.versions import describe_run

        write_text(run.agent_yaml, describe_run(loaded))

    from grpo_host.training.from_yaml import run_training

    quiet_libraries()
    return run_training(loaded, resume=str(directory))


def wait_until_free(run: RunDirectory, seconds: float = WAIT_SECONDS) -> None:
    """Wait for a process that still stops to let go of ``run``. Raises ``RunError`` after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        try:
            run.acquire().release()
            return
        except RunError:
            if time.monotonic() > until:
                raise
            time.sleep(LOOK_EVERY)


def end_with(parent: int, stop_seconds: float = STOP_SECONDS) -> None:
    """Stop this process, and at last all that it has started, when ``parent`` is no longer its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY)
        sys.stderr.write("the server is gone: stopping\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(stop_seconds)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch-server", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())

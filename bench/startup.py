"""How long commands take that load no model: ``python -m bench.startup``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.report import Report, Row, Target, publish

RUNS = 10
BLINK = 0.5
"""A blink of an eye takes 0.1 to 0.4 s; half a second is what is asked of a command."""
HOST = str(Path(sys.executable).with_name("grpo-host"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import grpo_sdk'": [sys.executable, "-c", "import grpo_sdk"],
    "grpo-host --help": [HOST, "--help"],
    "grpo-host plugins": [HOST, "plugins"],
}


def measure() -> Report:
    """The median of ten runs of each command, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS + 1):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
    bare = median["python -c pass"]
    rows = [
        Row(
            name,
            value * 1000,
            "ms",
            None if value == bare else value / bare,
            "" if value == bare else "python -c pass",
            Target("≤", BLINK * 1000) if name.startswith("grpo-host") else None,
        )
        for name, value in median.items()
    ]
    return Report(
        "Start-up",
        f"Wall time of a whole process, median of {RUNS} runs in turns, with warm file caches.",
        rows,
    )


if __name__ == "__main__":
    publish(measure())

"""Import plugins in a fresh process, as each process of the host does, and tell what that did."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_sdk.hooks import REGISTRATION_HOOKS
from grpo_sdk.testing.checks import require

SECONDS = 120.0
_TIME = re.compile(r"import time:\s*\d+ \|\s*(?P<microseconds>\d+) \|\s*(?P<module>\S+)$")


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    entry_points: Sequence[str]
    seconds: float
    """Of a processor."""
    packages: frozenset[str]
    """Those that were loaded for it."""
    printed: str
    handlers: Sequence[str]
    """What the root logger got."""
    seeded: bool
    """Whether Python's global generator was seeded or drawn from."""

    def slowest(self) -> list[str]:
        """The imports that take longest, with what they import in turn."""
        done = _run(self.entry_points, ["-X", "importtime"])[0]
        times: dict[str, int] = {}
        for found in filter(None, map(_TIME.match, done.stderr.splitlines())):
            if found["module"] == __name__:
                times.clear()  # what came before is this module's own
            else:
                times[found["module"]] = int(found["microseconds"])
        slow = sorted(times, key=lambda module: -times[module])[:5]
        return [f"{module} {times[module] / 1e6:.2f} s" for module in slow] or ["what it computes"]


def imported(entry_points: Sequence[str]) -> Imported:
    """Import what ``entry_points`` lead to, and call its registration hooks."""
    done, said = _run(entry_points, [])
    return Imported(
        entry_points=entry_points,
        seconds=said["seconds"],
        packages=frozenset(said["packages"]),
        printed=done.stdout + done.stderr,
        handlers=said["handlers"],
        seeded=said["seeded"],
    )


def _run(
    entry_points: Sequence[str], options: Sequence[str]
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory, "answer.json")
        command = f"import sys; from {__name__} import report; report(sys.argv[1], sys.argv[2:])"
        done = subprocess.run(  # noqa: S603 - this Python
            [sys.executable, *options, "-c", command, str(answer), *entry_points],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        require(answer.is_file(), f"a process that imports it ends at once: {done.stderr[-500:]}")
        said: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    require("raised" not in said, f"a process that imports it fails: {said.get('raised')}")
    return done, said


def report(answer: str, entry_points: Sequence[str]) -> None:
    """In the other process: import, and write what that did to the file ``answer``."""
    loaded, handlers, state = set(sys.modules), list(logging.getLogger().handlers), random.getstate()
    began = time.process_time()
    said: dict[str, Any] = {}
    try:
        for value in entry_points:
            module, _, attributes = value.partition(":")
            __import__(module)  # -X importtime does not see importlib's
            plugin: Any = sys.modules[module]
            for name in filter(None, attributes.split(".")):
                plugin = getattr(plugin, name)
            for hook in REGISTRATION_HOOKS:
                if callable(offered := getattr(plugin, hook, None)):
                    offered()
    except BaseException as problem:
        said["raised"] = f"{type(problem).__name__}: {problem}"
    said |= {
        "seconds": time.process_time() - began,
        "packages": sorted({name.partition(".")[0] for name in set(sys.modules) - loaded}),
        "handlers": [repr(h) for h in logging.getLogger().handlers if h not in handlers],
        "seeded": random.getstate() != state,
    }
    Path(answer).write_text(json.dumps(said), encoding="utf-8")

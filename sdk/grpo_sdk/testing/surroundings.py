"""What a plugin must leave as it was: the global generators of random numbers, and what a process holds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROCESS = Path("/proc")


@dataclass(frozen=True)
class _Generator:
    seed: Callable[[int], object]
    state: Callable[[], Any]
    restore: Callable[[Any], object]


def seeded_generators(use: Callable[[], object]) -> list[str]:
    """Which global generators ``use`` seeds: those that end in one state from whichever state they began."""
    with _kept_generators():
        ends = []
        for seed in (1, 2):
            for generator in _generators().values():
                generator.seed(seed)
            use()
            ends.append({name: _text(generator.state()) for name, generator in _generators().items()})
        return [name for name, state in ends[0].items() if ends[1].get(name) == state]


def _generators() -> dict[str, _Generator]:
    """Those of the packages that are loaded."""
    found = {"random": _Generator(random.seed, random.getstate, random.setstate)}
    if (numpy := sys.modules.get("numpy")) is not None:
        legacy = numpy.random
        found["numpy.random"] = _Generator(legacy.seed, legacy.get_state, legacy.set_state)
    if (torch := sys.modules.get("torch")) is not None:
        found["torch"] = _Generator(torch.manual_seed, torch.get_rng_state, torch.set_rng_state)
    return found


def _text(state: Any) -> str:
    return str(state.tolist() if hasattr(state, "tolist") else state)


@contextlib.contextmanager
def _kept_generators() -> Iterator[None]:
    kept = [(generator, generator.state()) for generator in _generators().values()]
    try:
        yield
    finally:
        for generator, state in kept:
            generator.restore(state)


class Held:
    """What the process holds at one moment, by kind: threads, tasks of the loop, child processes, files."""

    def __init__(self) -> None:
        self.threads = Counter(
            thread.name.rpartition("_")[0] or thread.name
            for thread in threading.enumerate()
            # asyncio's own, which are kept, and those of call_blocking, which end by themselves.
            if not thread.name.startswith(("asyncio_", "blocking-"))
        )
        self.tasks = Counter(_task_name(task) for task in asyncio.all_tasks())
        self.processes = Counter(_children())
        self.files = Counter(_open_files())

    def more_than(self, before: Held, least: int) -> str:
        """What there is of ``least`` times more now than ``before``; empty if there is nothing."""
        for kind, word in (
            ("processes", "child processes"),
            ("threads", "threads"),
            ("tasks", "tasks of the event loop"),
            ("files", "open files, pipes or sockets"),
        ):
            new: Counter[str] = getattr(self, kind) - getattr(before, kind)
            if new.total() >= least:
                return f"{new.total()} {word} more: {', '.join(sorted(new)[:3])}"
        return ""


def _task_name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "") or task.get_name()


def _children() -> Iterator[str]:
    """The commands of the processes that this one began and that still run; none where there is no /proc."""
    for stat in PROCESS.glob("[0-9]*/stat") if PROCESS.is_dir() else ():
        with contextlib.suppress(OSError, IndexError, ValueError):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            state, parent = rest.split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                yield name


def _open_files() -> Iterator[str]:
    for entry in (PROCESS / "self" / "fd").iterdir() if PROCESS.is_dir() else ():
        with contextlib.suppress(OSError):
            target = str(entry.readlink())
            # A pipe's or socket's number says nothing.
            yield target.partition(":[")[0] if ":[" in target else target

"""How far a run is, read from what it leaves in its directory: there is no second channel."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_host.runs.directory import RunDirectory

TAIL = 64 * 1024
"""Bytes from the end of metrics.jsonl in which its last line stands."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """One line of metrics.jsonl."""

    step: int
    reward: float | None
    time: float | None
    """When it was done, in seconds since the epoch."""


class MetricsReader:
    """Reads metrics.jsonl as it grows; each step is given once, also if a resumed run does it again."""

    def __init__(self, path: Path, *, after: int = 0) -> None:
        self._path = path
        self._offset = 0
        self._file: int | None = None
        self._last = after

    def new_steps(self) -> Iterator[StepDone]:
        """The steps that were done since the last call."""
        try:
            with self._path.open("rb") as file:
                number = os.fstat(file.fileno()).st_ino
                if number != self._file or file.seek(0, os.SEEK_END) < self._offset:
                    self._offset = 0  # a resumed run cut it back to its checkpoint
                self._file = number
                file.seek(self._offset)
                lines = file.readlines()
        except OSError:
            return
        for line in lines:
            if not line.endswith(b"\n"):
                return
            self._offset += len(line)
            done = _step_done(line)
            if done is not None and done.step > self._last:
                self._last = done.step
                yield done


def last_step(path: Path) -> StepDone | None:
    """The last whole line of metrics.jsonl at ``path``."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            lines = file.readlines()
    except OSError:
        return None
    return next(
        (done for line in reversed(lines) if line.endswith(b"\n") and (done := _step_done(line))), None
    )


def result_of(directory: RunDirectory) -> dict[str, Any]:
    """What a finished run came to, from its report.json: steps, seconds, rewards before and after."""
    report = directory.read_report()
    found: dict[str, Any] = {"steps": report.get("steps")}
    seconds = report.get("seconds")
    if isinstance(seconds, dict):
        found["seconds"] = round(sum(seconds.values()), 2)
    for name in ("before", "after"):
        reward = (report.get(name) or {}).get("reward") or {}
        if "mean" in reward:
            found[f"reward_{name}"] = reward["mean"]
    return found


def _step_done(line: bytes) -> StepDone | None:
    try:
        values = json.loads(line)
        reward, time = values.get("reward"), values.get("time")
        return StepDone(
            int(values["step"]),
            None if reward is None else float(reward),
            None if time is None else float(time),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None

"""A run's directory: the stable names that other tools read, safe against crashes and two writers."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from filelock import FileLock, Timeout

from grpo_sdk.errors import RunError
from grpo_sdk.trajectory import Trajectory

ROTATE_BYTES = 64 * 1024 * 1024
"""Size at which trajectories.jsonl is compressed and begun anew."""


class RunDirectory:
    """``<output>/<agent>/<run id>/``, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock")

    @property
    def agent_yaml(self) -> Path:
        return self.path / "agent.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def trajectories(self) -> Path:
        return self.path / "trajectories.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def whole_model(self) -> Path:
        """The model that was trained without an adapter, beside where one would be."""
        return self.path / "model"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @classmethod
    def create(cls, output: Path, agent: str) -> RunDirectory:
        """A new, locked run directory; its id sorts by time. Raises ``RunError`` where none can be made."""
        path = output / agent / new_run_id()
        try:
            path.mkdir(parents=True)
        except OSError as problem:
            raise RunError(
                f"cannot make the run directory {path}: {problem.strerror}; set output in agent.yaml"
            ) from problem
        return cls(path).acquire()

    @classmethod
    def find(cls, output: Path, agent: str, which: str = "latest", *, trained: bool = False) -> RunDirectory:
        """An existing run, unlocked: ``latest``, a run id, or a path. Raises ``RunError``.

        ``trained``: the latest that has an adapter; one that still runs, or was cut off, has none.
        """
        if which != "latest":
            for path in (Path(which), output / agent / which):
                if (path / "agent.yaml").is_file():
                    return cls(path)
            raise RunError(f"no run at {which} or {output / agent / which}")
        runs = sorted(p for p in (output / agent).glob("*") if (p / "agent.yaml").is_file())
        if trained:
            runs = [path for path in runs if cls(path).adapter.is_dir()] or runs
        if not runs:
            raise RunError(f"{output / agent} holds no run yet; start one with grpo-host run")
        return cls(runs[-1])

    def trained_adapter(self) -> Path:
        """The adapter that the run has trained. Raises ``RunError`` where there is none."""
        if self.adapter.is_dir():
            return self.adapter
        if self.whole_model.is_dir():
            raise RunError(
                f"the run {self.path} trained the whole model, not an adapter; name it as the model: "
                f"--set model.name={self.whole_model}"
            )
        raise RunError(f"the run {self.path} has no adapter yet; finish it with --resume")

    def acquire(self) -> RunDirectory:
        """Hold the directory until ``release`` or the end of the process. Raises ``RunError`` if in use."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"the run directory {self.path} is in use by another process; "
                "wait for it to end, or start a new run without --resume"
            ) from None
        for path in (self.metrics, self.trajectories):
            _cut_half_line(path)
        return self

    def release(self) -> None:
        """Let others have the directory."""
        self._lock.release()

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Replace ``path`` at once: a reader or a crash sees the old or the new, never a half."""
        with kept_if_full(path):
            write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def read_report(self) -> dict[str, Any]:
        """report.json so far, or an empty dictionary."""
        if not self.report.is_file():
            return {}
        value = json.loads(self.report.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """One more line of metrics.jsonl."""
        with kept_if_full(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, ensure_ascii=False) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """metrics.jsonl; a last line cut short by a crash is left out."""
        return list(_json_lines(self.metrics))

    def forget_after(self, step: int) -> None:
        """Forget the metrics and episodes of later steps: training goes on from there and plays them anew."""
        kept = [line for line in self.read_metrics() if line.get("step", 0) <= step]
        with kept_if_full(self.metrics):
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        for path in [self.trajectories, *reversed(self._rotated())]:
            with kept_if_full(path):
                if not _forget_episodes(path, step):
                    return  # what is older is of earlier steps

    def append_trajectory(self, trajectory: Trajectory) -> None:
        """One more line of trajectories.jsonl; a full file is compressed and begun anew."""
        with kept_if_full(self.trajectories):
            with self.trajectories.open("ab") as file:
                file.write(trajectory.to_json() + b"\n")
                full = file.tell() >= ROTATE_BYTES
            if full:
                self._rotate()

    def read_trajectories(self) -> Iterator[Trajectory]:
        """Every trajectory, oldest first, rotated files included; a half last line is left out."""
        for path in [*self._rotated(), self.trajectories]:
            if path.is_file():
                with _open(path) as file:
                    yield from (Trajectory.from_json(line) for line in file if line.endswith(b"\n"))

    def _rotated(self) -> list[Path]:
        """Full files of trajectories, the oldest first."""
        return sorted(self.path.glob("trajectories.*.jsonl.gz"))

    def _rotate(self) -> None:
        number = len(self._rotated()) + 1
        target = self.path / f"trajectories.{number:04d}.jsonl.gz"
        partial = target.with_suffix(".partial")
        with self.trajectories.open("rb") as source, gzip.open(partial, "wb", 5) as packed:
            shutil.copyfileobj(source, packed)
        partial.replace(target)
        self.trajectories.write_bytes(b"")


def new_run_id() -> str:
    """Names a run directory; later ones sort after earlier ones."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def write_text(path: Path, text: str) -> None:
    """Write ``path`` whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def kept_if_full(path: Path) -> Iterator[None]:
    """What a user can do about a file that cannot be written, as a ``RunError``."""
    try:
        yield
    except OSError as problem:
        raise RunError(
            f"cannot write {path}: {problem.strerror or problem}; what was written before is kept. "
            "Make room and run again with --resume"
        ) from problem


def _cut_half_line(path: Path) -> None:
    """Forget a last line that a crash or a full disk cut short: the next one would be glued to it."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        whole = 0
        for line in file:
            whole += len(line) if line.endswith(b"\n") else 0
        file.truncate(whole)


def _open(path: Path, mode: Literal["rb", "wb"] = "rb") -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, mode, 5) if path.suffix == ".gz" else path.open(mode))


def _forget_episodes(path: Path, step: int) -> bool:
    """Take the episodes of later steps out of a file of trajectories; whether to look further back."""
    if not path.is_file():
        return True
    with _open(path) as file:
        lines = [line for line in file if line.endswith(b"\n")]
    steps = [_step(json.loads(line)["id"]) for line in lines]
    if max(steps, default=0) > step:
        partial = path.with_name(f".partial.{path.name}")
        with _open(partial, "wb") as file:
            file.writelines(line for line, played in zip(lines, steps, strict=True) if played <= step)
        partial.replace(path)
    return not any(0 < played <= step for played in steps)


def _step(episode: str) -> int:
    """The step that played the episode: it is in front of its id. 0: an evaluation did."""
    first = episode.partition("/")[0]
    return int(first) if first.isdecimal() else 0


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)

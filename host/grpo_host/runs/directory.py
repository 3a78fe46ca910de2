"""A run's directory: the stable names that other tools read, safe against crashes and two writers."""

from __future__ import annotations

import errno
import gzip
import itertools
import json
import logging
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast

from filelock import FileLock, Timeout

from grpo_host.utils.atomic import append_whole, write_text
from grpo_host.utils.paths import expanded
from grpo_sdk.errors import RunError
from grpo_sdk.trajectory import Trajectory

logger = logging.getLogger("grpo_host.runs")
T = TypeVar("T")

STAMP = "%Y%m%d-%H%M%S"
SECOND = timedelta(seconds=1)
EVALUATIONS = "evaluations"
"""Folder below ``<output>/<agent>/`` in which evaluations are kept."""
ROTATE_BYTES = 64 * 1024 * 1024
"""Size at which trajectories.jsonl is compressed and a new one begins."""
LOOK_SECONDS = 0.2
"""Who looks whether a run is held shares its lock for less than this."""
FULL_BYTES = 1024 * 1024
"""If a writer does not say why it failed, a disk with less free space than this counts as full."""


class RunDirectory:
    """``<output>/<agent>/<run id>/``, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.agent_yaml = path / "agent.yaml"
        self.report = path / "report.json"
        self.metrics = path / "metrics.jsonl"
        self.trajectories = path / "trajectories.jsonl"
        self.tokens = path / "tokens.jsonl"
        """What the trainer made of some tokens."""
        self.demonstrations = path / "demonstrations.jsonl"
        """Which dialogues or trajectories a warm start imitated: their ids, and their traces."""
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.whole_model = path / "model"
        """The model that was trained without an adapter, beside the place of an adapter."""
        self._lock = FileLock(path / ".lock")

    @classmethod
    def create(cls, output: Path, agent: str) -> RunDirectory:
        """A new, locked run directory, the last by its name. Raises ``RunError`` if none can be made."""
        path = output / agent / new_run_id(after=(run.name for run in (output / agent).glob("*")))
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

        ``trained``: the latest that has trained something; one that still runs, or was cut off, has not.
        """
        if which != "latest":
            for path in (expanded(which), output / agent / which):
                if (path / "agent.yaml").is_file():
                    return cls(path)
            raise RunError(f"no run at {which} or {output / agent / which}")
        runs = cls._all(output, agent)
        if trained:
            runs = [path for path in runs if cls(path).is_trained()] or runs
        if not runs:
            raise RunError(f"{output / agent} holds no run yet; start one with grpo-host run")
        return cls(runs[-1])

    @classmethod
    def any(cls, output: Path, agent: str) -> bool:
        """Whether there is a run of ``agent``."""
        return bool(cls._all(output, agent))

    @staticmethod
    def _all(output: Path, agent: str) -> list[Path]:
        return sorted(path for path in (output / agent).glob("*") if (path / "agent.yaml").is_file())

    def is_trained(self) -> bool:
        """Whether the run has ended with an adapter or a whole model."""
        return self.adapter.is_dir() or self.whole_model.is_dir()

    def acquire(self) -> RunDirectory:
        """Lock the directory until ``release`` or the end of the process. Raises ``RunError`` if in use."""
        try:
            self._lock.acquire(timeout=LOOK_SECONDS, poll_interval=0.02)
        except Timeout:
            raise RunError(
                f"the run directory {self.path} is in use by another process; "
                "wait for it to end, or start a new run without --resume"
            ) from None
        for path in (self.metrics, self.trajectories, self.tokens):
            _cut_half_line(path)
        self._compress()
        return self

    def release(self) -> None:
        """Unlock the directory."""
        self._lock.release()

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Replace ``path`` atomically: a reader sees the old file or the new one, also after a crash."""
        with kept_if_full(path):
            write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def read_report(self) -> dict[str, Any]:
        """The contents of report.json; empty if there is none, or if it is damaged, which is reported."""
        if not self.report.is_file():
            return {}
        try:
            value = json.loads(self.report.read_bytes())
        except ValueError as problem:
            logger.warning("%s is damaged, and what it said is lost: %s", self.report, problem)
            return {}
        return value if isinstance(value, dict) else {}

    def write_demonstrations(self, imitated: Iterable[Mapping[str, Any]]) -> None:
        """Say in demonstrations.jsonl which dialogues are imitated, unless there are none."""
        lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in imitated]
        if lines:
            with kept_if_full(self.demonstrations):
                write_text(self.demonstrations, "".join(lines))

    def append_metrics(self, values: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        _append(self.metrics, values)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without damaged lines and a last one that a crash cut short."""
        return list(_records(self.metrics, _json_object))

    def forget_after(self, step: int, measured: Collection[str] = ()) -> None:
        """Remove what a run that continues after ``step`` will repeat.

        These are metrics and episodes of later steps, and episodes of evaluations other than ``measured``.
        """
        _keep(self.metrics, step)
        if self.tokens.is_file():
            _keep(self.tokens, step)
        for path in [self.trajectories, *reversed(self._rotated())]:
            with kept_if_full(path):
                if not _forget_episodes(path, step, measured):
                    return  # what is older is of earlier steps, and of evaluations before them

    def append_tokens(self, values: Mapping[str, Any]) -> None:
        """Append a line to tokens.jsonl."""
        _append(self.tokens, values)

    def append_trajectory(self, trajectory: Trajectory) -> None:
        """Append a line to trajectories.jsonl; a full file is compressed and a new one begins."""
        with kept_if_full(self.trajectories):
            if append_whole(self.trajectories, trajectory.to_json() + b"\n") >= ROTATE_BYTES:
                self._rotate()

    def read_trajectories(self) -> Iterator[Trajectory]:
        """Every trajectory, oldest first, rotated files too; skips damaged lines and a half last one."""
        for path in [*self._rotated(), self.trajectories]:
            yield from _records(path, Trajectory.from_json)

    def _rotated(self) -> list[Path]:
        """Full files of trajectories, the oldest first."""
        packed = sorted(self.path.glob("trajectories.*.jsonl.gz"))
        return packed + [path for path in self._full() if path.with_name(f"{path.name}.gz") not in packed]

    def _full(self) -> list[Path]:
        """Full files that are not compressed yet: at most one, unless a crash left others."""
        return sorted(self.path.glob("trajectories.*.jsonl"))

    def _rotate(self) -> None:
        number = len(self._rotated()) + 1
        self.trajectories.replace(self.path / f"trajectories.{number:04d}.jsonl")
        self.trajectories.touch()
        self._compress()

    def _compress(self) -> None:
        """Compress full files: each line is in one file at every moment for those who read in order."""
        for path in self._full():
            target = path.with_name(f"{path.name}.gz")
            if not target.is_file():
                partial = target.with_suffix(".partial")
                with path.open("rb") as source, gzip.open(partial, "wb", 5) as packed:
                    shutil.copyfileobj(source, packed)
                partial.replace(target)
            path.unlink()


def new_run_id(after: Iterable[str] = ()) -> str:
    """Names a run directory by the time (UTC); it sorts after the run ids in ``after``.

    If the clock went back, or two runs begin within a second, that is a second after the last of them.
    """
    began = datetime.now(UTC)
    for name in after:
        with suppress(ValueError):
            began = max(began, datetime.strptime(name[:15], STAMP).replace(tzinfo=UTC) + SECOND)
    return f"{began.strftime(STAMP)}-{secrets.token_hex(2)}"


@contextmanager
def kept_if_full(path: Path) -> Iterator[None]:
    """What a user can do about a file that cannot be written, as a ``RunError``."""
    try:
        yield
    except OSError as problem:
        raise RunError(
            f"cannot write {path}: {problem.strerror or problem}; what was written before is kept. "
            f"{remedy(problem, path)} and run again with --resume"
        ) from problem


def remedy(problem: BaseException, path: Path) -> str:
    """What to do if ``path`` could not be written: "Make room" only if there is none left."""
    return "Make room" if _disk_is_full(problem, path) else "Mend that"


def _disk_is_full(problem: BaseException, path: Path) -> bool:
    """Recognise a full disk also in the errors of tensor writers, which at best quote the system's."""
    full = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)}
    cause: BaseException | None = problem
    while cause is not None:
        said = isinstance(cause, OSError) and cause.errno in full
        if said or any(text in str(cause) for text in full.values()):
            return True
        cause = cause.__cause__ or cause.__context__
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free < FULL_BYTES


def _append(path: Path, values: Mapping[str, Any]) -> None:
    with kept_if_full(path):
        append_whole(path, (json.dumps(values, ensure_ascii=False) + "\n").encode())


def _keep(path: Path, step: int) -> None:
    """Keep the lines up to ``step``."""
    kept = [line for line in _records(path, _json_object) if line.get("step", 0) <= step]
    with kept_if_full(path):
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def _cut_half_line(path: Path) -> None:
    """Remove a last line that a crash or a full disk cut short: the next one would be appended to it."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        whole = 0
        for line in file:
            whole += len(line) if line.endswith(b"\n") else 0
        file.truncate(whole)


def _open(path: Path, mode: Literal["rb", "wb"] = "rb") -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, mode, 5) if path.suffix == ".gz" else path.open(mode))


def _forget_episodes(path: Path, step: int, measured: Collection[str]) -> bool:
    """Remove what ``forget_after`` removes from a file; return whether to look further back."""
    if not path.is_file():
        return True
    # In front of an episode's id is the step that played it, or the name of an evaluation.
    read = list(_records(path, lambda line: (line, str(_json_object(line)["id"]).partition("/")[0])))
    lines, played = [line for line, _ in read], [label for _, label in read]
    stay = [int(label) <= step if label.isdecimal() else label in measured for label in played]
    if not all(stay):
        partial = path.with_name(f".partial.{path.name}")
        with _open(partial, "wb") as file:
            file.writelines(itertools.compress(lines, stay))
        partial.replace(path)
    return not any(label.isdecimal() for label in itertools.compress(played, stay))


def _records(path: Path, read: Callable[[bytes], T]) -> Iterator[T]:
    """Apply ``read`` to each complete line of the file, if there is a file.

    Reports and skips damaged lines: after a power cut a file may hold zeros in place of text.
    """
    if not path.is_file():
        return
    with _open(path) as file:
        number = 0
        while True:
            number += 1
            try:
                line = file.readline()
                if not line.endswith(b"\n"):
                    return
                record = read(line)
            except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
                logger.warning("%s is damaged from line %d on, which is left out: %s", path, number, problem)
                return
            except (ValueError, KeyError) as problem:
                said = str(problem).strip().partition("\n")[0]
                logger.warning("%s:%d: a damaged line is left out: %s", path, number, said)
                continue
            yield record


def _json_object(line: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ``ValueError`` if ``line`` is none."""
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value

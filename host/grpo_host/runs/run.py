"""A run as it lies on disk, finished or growing: for notebooks, commands and the viewer."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from grpo_host.plugins.use import label_of
from grpo_host.runs.diagnosis import Finding, diagnose
from grpo_host.runs.directory import RunDirectory
from grpo_host.utils.paths import expanded
from grpo_sdk.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

State = Literal["running", "finished", "stopped", "failed"]
"""``stopped``: it was interrupted, and --resume continues it. ``failed``: an error ended it."""

LEFT_BY_A_RUN = ("metrics.jsonl", "trajectories.jsonl", "report.json")
"""One of them is beside the agent.yaml of every run and every evaluation that has begun to play."""
PHASES = ("before", "warm_start", "after")
"""The evaluations of report.json, in their order."""


def is_run(path: Path) -> bool:
    """Whether ``path`` is the directory of a run, or of an evaluation."""
    return (path / "agent.yaml").is_file() and any(
        (path / name).exists() for name in (".lock", *LEFT_BY_A_RUN)
    )


class Run:
    """What a run's directory says. Reads only; what has changed is read again when it is asked for."""

    def __init__(self, path: str | Path) -> None:
        where = expanded(path).absolute()
        if not is_run(where):
            raise RunError(f"{path} is no run's directory; grpo-host runs lists those that there are")
        self.path = where
        self.directory = RunDirectory(where)
        self._config = _Remembered(self.directory.agent_yaml, _read_yaml)
        self._report = _Remembered(self.directory.report, lambda _: self.directory.read_report())
        self._lines = _Lines(self.directory.metrics)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def config(self) -> dict[str, Any]:
        """The settings: agent.yaml with every default."""
        return self._config() or {}

    @property
    def name(self) -> str:
        """The agent's name."""
        return str(self.config.get("name", self.path.parent.name))

    @property
    def report(self) -> dict[str, Any]:
        """The contents of report.json; empty if there is none yet."""
        return self._report() or {}

    @property
    def is_evaluation(self) -> bool:
        """Whether ``grpo-host eval`` made it, which trains nothing."""
        return self.path.parent.name == "evaluations"

    @property
    def state(self) -> State:
        """What it is doing, or how it ended."""
        if _is_held(self.path / ".lock"):
            return "running"
        report = self.report
        if report.get("error"):
            return "failed"
        done = "episodes" in report if self.is_evaluation else "steps" in report
        return "finished" if done else "stopped"

    @property
    def started(self) -> float:
        """Unix time, by the file that it writes first."""
        return self.directory.agent_yaml.stat().st_mtime

    @property
    def planned_steps(self) -> int:
        """How many training steps it was asked for."""
        return 0 if self.is_evaluation else int(self.config.get("training", {}).get("steps", 0))

    @property
    def seconds_left(self) -> float | None:
        """How long the steps that are missing will take, as those so far did; None if that cannot be told,
        or if none is missing: what is measured and saved after the last one is no step."""
        lines = self.metric_lines()
        times = [line["time"] for line in lines if line.get("time")]
        if self.state != "running" or len(times) < 2 or not self.planned_steps:
            return None
        missing = self.planned_steps - lines[-1]["step"]
        return float((times[-1] - times[0]) / (len(times) - 1) * missing) if missing > 0 else None

    @property
    def is_ending(self) -> bool:
        """Whether it has made its last step, and measures and saves."""
        return self.state == "running" and 0 < self.planned_steps <= self._last_step()

    def metric_lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that are complete, one a step."""
        return self._lines()

    def evaluations(self) -> list[dict[str, Any]]:
        """What was measured and when: ``label``, ``step``, ``split``, and intervals of reward and success.

        Early stopping's measurements have no interval.
        """
        report, last = self.report, self._last_step()
        if self.is_evaluation:
            return [_evaluation("evaluation", None, report)] if "episodes" in report else []
        found = [
            _evaluation(name, last if name == "after" else 0, report[name])
            for name in PHASES
            if isinstance(report.get(name), dict)
        ]
        early = report.get("early_stopping") or {}
        for step, reward in (early.get("rewards") or {}).items():
            found.append(
                {
                    **_evaluation(f"step-{step}", int(step), {"split": early.get("split", "validation")}),
                    "reward": reward,
                }
            )
        return sorted(found, key=lambda item: (item["step"] or 0, item["label"] == "after"))

    def diagnosis(self) -> list[Finding]:
        """What goes wrong in it, the worst first."""
        weights = {
            str(reward.get("as") or label_of(str(reward.get("name")))): float(reward.get("weight", 1.0))
            for reward in self.config.get("rewards") or ()
            if isinstance(reward, Mapping)
        }
        found = diagnose(self.metric_lines(), self.evaluations(), weights)
        error = self.report.get("error") if self.state == "failed" else None
        return [_ended(str(error), self._last_step()), *found] if error else found

    def size_bytes(self) -> int:
        """What its files take on the disk."""
        return sum(entry.stat(follow_symlinks=False).st_size for entry in _files(self.path))

    def metrics(self) -> pd.DataFrame:
        """metrics.jsonl, one row a step. Needs pandas."""
        return _pandas().DataFrame(self.metric_lines()).set_index("step")

    def trajectories(self) -> pd.DataFrame:
        """The episodes, one row each; ``trajectory`` is the whole record. Needs pandas."""
        rows = []
        for item in self.directory.read_trajectories():
            label = item.id.partition("/")[0]
            rows.append(
                {
                    "id": item.id,
                    "step": int(label) if label.isdecimal() else None,
                    "split": item.task.split,
                    "task": item.task.id,
                    "environment": item.environment,
                    "status": item.status,
                    "stop_reason": str(item.stop_reason),
                    "success": item.outcome.get("success"),
                    "reward": item.reward,
                    **{f"rewards/{name}": record.value for name, record in item.rewards.items()},
                    "turns": len(item.turns),
                    "tokens": sum(turn.completion_tokens for turn in item.turns),
                    "tool_calls": sum(len(turn.tools) for turn in item.turns),
                    "tool_errors": item.tool_errors,
                    "final_text": item.final_text,
                    "trajectory": item,
                }
            )
        return _pandas().DataFrame(rows)

    def plot(self) -> Figure:
        """The reward and its parts, success, and what was measured. Needs matplotlib."""
        from grpo_host.runs.curves import draw

        return draw(self.metric_lines(), self.evaluations())

    def _last_step(self) -> int:
        lines = self.metric_lines()
        return int(lines[-1]["step"]) if lines else 0


def find_runs(place: Path) -> list[Run]:
    """The runs and evaluations in ``place``, which may be one itself, those that began last first."""
    patterns = ("", "*", "*/*", "*/evaluations/*", "evaluations/*")
    found = {
        path.absolute()
        for pattern in patterns
        for path in (place.glob(pattern) if pattern else [place])
        if is_run(path)
    }
    return [Run(path) for path in sorted(found, key=lambda path: path.name, reverse=True)]


def named_run(which: str, place: Path) -> Run:
    """A run by its path, by its id in ``place``, or the ``latest`` that has begun. Raises ``RunError``."""
    if which != "latest" and is_run(expanded(which)):
        return Run(which)
    found = [
        run
        for run in find_runs(place)
        if (not run.is_evaluation if which == "latest" else run.path.name == which)
    ]
    if not found:
        raise RunError(f"no run {which} in {place.absolute()}; give a run's directory, or see grpo-host runs")
    return max(found, key=lambda run: run.path.name)  # ids sort by time


def differing_settings(runs: list[Run]) -> list[dict[str, Any]]:
    """For each run, the settings in which the runs of its agent differ, under flat names."""
    flat = [dict(flat_settings(run.config)) for run in runs]
    given: dict[tuple[str, str], list[str]] = {}
    for run, settings in zip(runs, flat, strict=True):
        for key, value in settings.items():
            given.setdefault((run.name, key), []).append(repr(value))
    runs_of = Counter(run.name for run in runs)
    differ = {
        (name, key)
        for (name, key), values in given.items()
        if key not in ("name", "output")
        and not key.startswith("serving.")  # nothing that was learnt
        and (len(set(values)) > 1 or len(values) < runs_of[name])
    }
    return [
        {key: settings.get(key) for name, key in sorted(differ) if name == run.name}
        for run, settings in zip(runs, flat, strict=True)
    ]


def flat_settings(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of an agent.yaml by names as --set takes them."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flat_settings(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(part, Mapping | list) for part in value):
        for index, part in enumerate(value):
            yield from flat_settings(part, f"{name}[{index}]")
    else:
        yield name, value


def _ended(error: str, step: int) -> Finding:
    return Finding(
        "ended", "error", step, step,
        f"the run ended {f'after step {step}' if step else 'before its first step'} with {error.rstrip('.')}",
        "Once that is mended, grpo-host run --resume goes on from the last checkpoint",
    )  # fmt: skip


def _evaluation(label: str, step: int | None, said: Mapping[str, Any]) -> dict[str, Any]:
    reward, success = said.get("reward") or {}, said.get("success") or {}
    return {
        "label": label,
        "step": step,
        "split": said.get("split"),
        "episodes": said.get("episodes"),
        "failed": said.get("failed"),
        "reward": reward.get("mean"),
        "low": reward.get("low"),
        "high": reward.get("high"),
        "success": success.get("mean"),
        "success_low": success.get("low"),
        "success_high": success.get("high"),
    }


def _is_held(lock: Path) -> bool:
    """Whether a process holds the run. Asking shares the lock for a moment, which ``acquire`` waits out."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as problem:
        return problem.errno in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)
    finally:
        os.close(descriptor)
    return False


def _files(path: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(Path(entry.path))
                else:
                    yield entry
    except OSError:
        return  # removed meanwhile, or not ours to read


def _read_yaml(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


class _Remembered:
    """What a file says, read again when the file has changed."""

    def __init__(self, path: Path, read: Any) -> None:
        self._path, self._read = path, read
        self._seen: tuple[int, int, int] | None = None
        self._value: dict[str, Any] | None = None

    def __call__(self) -> dict[str, Any] | None:
        try:
            said = self._path.stat()
        except OSError:
            self._seen = self._value = None
            return None
        seen = (said.st_ino, said.st_size, said.st_mtime_ns)
        if seen != self._seen:
            self._value, self._seen = self._read(self._path), seen
        return self._value


class _Lines:
    """The objects of a growing file of JSON lines; only what is new is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = 0, 0
        self._found: list[dict[str, Any]] = []

    def __call__(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                said = os.fstat(file.fileno())
                if said.st_ino != self._inode or said.st_size < self._offset:
                    self._inode, self._offset, self._found = said.st_ino, 0, []
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._found = [*self._found, *filter(None, map(_object, whole.splitlines()))]
        return self._found


def _object(line: bytes) -> dict[str, Any] | None:
    """Of a line that is one with a step; None of a damaged one, which ``read_metrics`` reports."""
    try:
        value = orjson.loads(line)
    except ValueError:
        try:
            value = json.loads(line)  # it knows NaN
        except ValueError:
            return None
    return value if isinstance(value, dict) and isinstance(value.get("step"), int) else None


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError:
        raise RunError("this needs pandas: pip install pandas") from None
    return pd

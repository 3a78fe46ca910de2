"""The built-in curricula: simple rules over how the groups of a step went."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grpo_environments.splits import require_between, require_rate
from grpo_sdk.curriculum import Curriculum
from grpo_sdk.trajectory import Task, Trajectory


class RaiseLevel(Curriculum):
    """Plays tasks of one level (``task.data["level"]``, from 0), and the next one when it is solved.

    Each kind of task has a level of its own. Success is the outcome's ``success``. An episode without one,
    and a failed one, counts for nothing.
    """

    def __init__(self, *, above: float = 0.8, groups: int = 8) -> None:
        """Set the options.

        ``above``: success over the last ``groups`` groups of a kind, all of its present level, above which
        its level is raised. Raises ``ValueError`` if one is out of range.
        """
        require_rate("above", above)
        require_between("groups", groups, 1, 10_000)
        self._above, self._groups = above, groups
        self._level: dict[str, int] = {}
        self._highest: dict[str, int] = {}
        self._recent: dict[str, list[float]] = {}

    def begin(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            level = _level(task)
            self._highest[task.kind] = max(level, self._highest.get(task.kind, 0))
            self._level[task.kind] = min(level, self._level.get(task.kind, level))

    def observe(self, played: Sequence[Trajectory]) -> None:
        for task, success in _groups(played):
            kind = task.kind
            if _level(task) != self._level.get(kind):
                continue
            recent = self._recent.setdefault(kind, [])
            recent.append(success)
            del recent[: -self._groups]
            solved = len(recent) == self._groups and statistics.fmean(recent) > self._above
            if solved and self._level[kind] < self._highest[kind]:
                self._level[kind] += 1
                recent.clear()

    def plays(self, task: Task) -> bool:
        return _level(task) == self._level.get(task.kind)

    def state(self) -> dict[str, Any]:
        recent = {kind: list(values) for kind, values in self._recent.items()}
        return {"level": dict(self._level), "recent": recent}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._level.update(state["level"])
        self._recent = {kind: list(values) for kind, values in state["recent"].items()}

    def metrics(self) -> Mapping[str, float]:
        return {f"level/{kind}".rstrip("/"): level for kind, level in self._level.items()}


class DropSolved(Curriculum):
    """Leaves tasks out that every episode of their group solved, several times in a row."""

    def __init__(self, *, times: int = 2) -> None:
        """Set the options. ``times``: how often in a row. Raises ``ValueError`` if it is out of range."""
        require_between("times", times, 1, 1000)
        self._times = times
        self._solved: dict[str, int] = {}

    def observe(self, played: Sequence[Trajectory]) -> None:
        for task, success in _groups(played):
            self._solved[task.id] = self._solved.get(task.id, 0) + 1 if success == 1.0 else 0

    def plays(self, task: Task) -> bool:
        return self._solved.get(task.id, 0) < self._times

    def state(self) -> dict[str, Any]:
        return {"solved": {id_: times for id_, times in self._solved.items() if times}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._solved = dict(state["solved"])

    def metrics(self) -> Mapping[str, float]:
        return {"dropped": sum(times >= self._times for times in self._solved.values())}


def _groups(played: Sequence[Trajectory]) -> Iterator[tuple[Task, float]]:
    """Each task that was played, with its share of success."""
    groups: dict[str, tuple[Task, list[float]]] = {}
    for item in played:
        if item.status != "failed" and "success" in item.outcome:
            groups.setdefault(item.task.id, (item.task, []))[1].append(float(bool(item.outcome["success"])))
    return ((task, statistics.fmean(values)) for task, values in groups.values())


def _level(task: Task) -> int:
    return int(task.data.get("level", 0))

"""The order in which a run plays its tasks, step by step; a checkpoint keeps where it is."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task, Trajectory


class TaskOrder:
    """Gives the tasks of each step.

    Tasks of one kind are a stream: each comes once before any comes again, and each round is shuffled anew.
    If there are several kinds, they take turns by weight.
    The weights are those of a mixture's environments. The kinds of one environment share its weight by the
    number of their tasks.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        per_step: int,
        *,
        seed: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        kinds: dict[str, list[Task]] = {}
        for task in tasks:
            kinds.setdefault(task.kind, []).append(task)
        self._per_step = per_step
        self._streams = {
            kind: _Stream(found, derive_seed(seed, "task-order", *([kind] if kind else [])))
            for kind, found in kinds.items()
        }
        self._weights = _weights_of(kinds, weights or {})
        self._credits = dict.fromkeys(kinds, 0.0)
        self._done = 0
        """The steps whose tasks were given."""
        self._current: list[Task] = []
        self._states: dict[int, dict[str, Any]] = {}
        """The state after so many steps: the last two, since a step may be left half-way and done again."""

    def begin(self, step: int, state: Mapping[str, Any] | None = None) -> None:
        """Go on after ``step`` with what ``state`` gave there; None from a run of an earlier version."""
        if state is None:  # such a run has one kind
            for stream in self._streams.values():
                stream.position = step * self._per_step
        else:
            for kind, position in state["positions"].items():
                self._streams[kind].position = position
            self._credits.update(state["credits"])
        self._done = step
        self._states = {step: self._now()}

    def tasks(self, done: int) -> list[Task]:
        """The tasks of the step after ``done`` steps. Asked for in order, each as often as wanted."""
        if done == self._done:
            self._current = [self._next() for _ in range(self._per_step)]
            self._done += 1
        elif done != self._done - 1:
            raise ValueError(f"the tasks after {done} steps are asked for, and {self._done} were given")
        return self._current

    def observe(self, played: Iterable[Trajectory]) -> None:
        """Hear how the episodes of the step that was given last went; the next step depends on it."""
        self._states = {step: state for step, state in self._states.items() if step == self._done - 1}
        self._states[self._done] = self._now()

    def state(self, step: int) -> dict[str, Any]:
        """What ``begin`` needs to go on after ``step``: the last one that was played, or the one before."""
        return self._states[step]

    def metrics(self) -> dict[str, float]:
        """For metrics.jsonl."""
        return {}

    def _now(self) -> dict[str, Any]:
        return {
            "positions": {kind: stream.position for kind, stream in self._streams.items()},
            "credits": dict(self._credits),
        }

    def _next(self) -> Task:
        """The next task, of the kind that is furthest behind its share."""
        total = sum(self._weights.values())
        for kind, weight in self._weights.items():
            self._credits[kind] += weight / total
        chosen = max(self._credits, key=self._credits.__getitem__)
        self._credits[chosen] -= 1.0
        return self._streams[chosen].next()


class _Stream:
    """The tasks of one kind, round after round."""

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        self.position = 0
        """How many tasks were given."""
        self._tasks = tasks
        self._generator = random.Random(seed)
        self._order: list[Task] = []

    def next(self) -> Task:
        while len(self._order) <= self.position:
            round_ = list(self._tasks)
            self._generator.shuffle(round_)
            self._order += round_
        self.position += 1
        return self._order[self.position - 1]


def _weights_of(kinds: Mapping[str, Sequence[Task]], weights: Mapping[str, float]) -> dict[str, float]:
    """The weight of each kind."""
    counts: dict[str, int] = {}
    for kind, tasks in kinds.items():
        counts[_owner(kind, weights)] = counts.get(_owner(kind, weights), 0) + len(tasks)
    return {
        kind: weights.get(_owner(kind, weights), 1.0) * len(tasks) / counts[_owner(kind, weights)]
        for kind, tasks in kinds.items()
    }


def _owner(kind: str, weights: Mapping[str, float]) -> str:
    """The environment of ``kind``; empty if there is one only."""
    return kind.partition("/")[0] if weights else ""

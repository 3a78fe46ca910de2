"""The order in which a run plays its tasks, step by step; a checkpoint keeps where it is."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from grpo_host.plugins.failures import PluginFailure, blamed
from grpo_sdk.curriculum import Curriculum
from grpo_sdk.errors import RunError
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
        curriculum: Curriculum | None = None,
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
        self._curriculum = curriculum
        self._tasks = tasks
        self._credits = dict.fromkeys(kinds, 0.0)
        self._given: dict[int, list[Task]] = {}
        """The tasks after so many steps, of those that are under way."""
        self._places: dict[int, dict[str, Any]] = {}
        """Where the streams stood before those were taken."""
        self._next_step = 0
        """The steps whose tasks were given."""
        self._played = 0
        """The steps of which is known how they went."""
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
        if self._curriculum is not None:
            with _blamed(self._curriculum, "begin"):
                self._curriculum.begin(self._tasks)
            if state is not None:
                with _blamed(self._curriculum, "restore"):
                    self._curriculum.restore(state["curriculum"])
        self._next_step = self._played = step
        self._states = {step: self._now()}

    def tasks(self, done: int) -> list[Task]:
        """The tasks of the step after ``done`` steps. Asked for in order, each as often as wanted."""
        if done == self._next_step:
            self._places[done] = self._place()
            self._given[done] = [self._next() for _ in range(self._per_step)]
            self._next_step += 1
        elif done not in self._given:
            raise ValueError(f"the tasks after {done} steps are asked for, and {self._next_step} were given")
        return self._given[done]

    def of_kind(self, kind: str) -> Sequence[Task]:
        """All tasks of ``kind`` that may come, or all."""
        tasks = self._streams[kind].tasks
        return [task for task in tasks if self._plays(task)] or tasks

    def observe(self, played: Iterable[Trajectory]) -> None:
        """Hear how the episodes of the next step went; those that are not given yet depend on it."""
        before = self._played
        self._states = {step: state for step, state in self._states.items() if step == before}
        if self._curriculum is not None:
            with _blamed(self._curriculum, "observe"):
                self._curriculum.observe(list(played))
        self._played += 1
        self._states[self._played] = self._now()
        for kept in (self._given, self._places):
            for done in [done for done in kept if done < before]:
                del kept[done]

    def state(self, step: int) -> dict[str, Any]:
        """What ``begin`` needs to go on after ``step``: the last one that was played, or the one before."""
        return self._states[step]

    def metrics(self) -> dict[str, float]:
        """For metrics.jsonl: what the curriculum says of itself, after the step."""
        if self._curriculum is None:
            return {}
        with _blamed(self._curriculum, "metrics"):
            return {f"curriculum/{name}": float(value) for name, value in self._curriculum.metrics().items()}

    def _now(self) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        if self._curriculum is not None:
            with _blamed(self._curriculum, "state"):
                kept["curriculum"] = copy.deepcopy(self._curriculum.state())
        # What was given ahead is in no checkpoint: a run that goes on there has it before it.
        return kept | self._places.get(self._played, self._place())

    def _place(self) -> dict[str, Any]:
        return {
            "positions": {kind: stream.position for kind, stream in self._streams.items()},
            "credits": dict(self._credits),
        }

    def _next(self) -> Task:
        """The next task, of the kind that is furthest behind its share and has one that may come."""
        weights = self._weights_now()
        total = sum(weights.values())
        for kind, weight in weights.items():
            self._credits[kind] += weight / total
        by_need = sorted(weights, key=self._credits.__getitem__, reverse=True)
        for plays in (self._plays, bool):  # of no task that may come: of all
            for kind in by_need:
                task = self._streams[kind].next(plays) if weights[kind] else None
                if task is not None:
                    self._credits[kind] -= 1.0
                    return task
        raise ValueError("a kind without tasks")

    def _weights_now(self) -> Mapping[str, float]:
        if self._curriculum is None:
            return self._weights
        with _blamed(self._curriculum, "weights"):
            said = self._curriculum.weights(self._weights)
            weights = {kind: float(said.get(kind, 0.0)) for kind in self._weights}
            if not (all(0 <= value < math.inf for value in weights.values()) and any(weights.values())):
                raise ValueError(f"weights are numbers from 0 on, and not all 0: {weights}")
        return weights

    def _plays(self, task: Task) -> bool:
        if self._curriculum is None:
            return True
        with _blamed(self._curriculum, "plays"):
            return bool(self._curriculum.plays(task))


class _Stream:
    """The tasks of one kind, round after round."""

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        self.position = 0
        """How many tasks were given, or passed over."""
        self.tasks = tasks
        self._generator = random.Random(seed)
        self._order: list[Task] = []

    def next(self, plays: Callable[[Task], bool]) -> Task | None:
        """The next one that ``plays``; None, and the position stays, if none of a whole round does."""
        for position in range(self.position, self.position + 2 * len(self.tasks)):
            while len(self._order) <= position:
                round_ = list(self.tasks)
                self._generator.shuffle(round_)
                self._order += round_
            if plays(self._order[position]):
                self.position = position + 1
                return self._order[position]
        return None


@contextmanager
def _blamed(curriculum: Curriculum, method: str) -> Iterator[None]:
    try:
        with blamed(f"curriculum {type(curriculum).__name__}", method):
            yield
    except PluginFailure as problem:
        raise RunError(str(problem)) from problem


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

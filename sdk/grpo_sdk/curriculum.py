"""Curricula: choose between training steps what is trained on next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_sdk.trajectory import Task, Trajectory


class Curriculum(ABC):
    """Chooses which training tasks come next, by how the episodes of the steps before went.

    One instance a run. Its methods are called between steps and must be quick. What it chooses must depend
    on what it is told alone, so that a resumed run goes on as it would have gone. Evaluations are not
    changed by it.
    """

    def begin(self, tasks: Sequence[Task]) -> None:
        """Hear of all tasks to train on, before the first step and when a run is resumed."""
        return

    @abstractmethod
    def observe(self, played: Sequence[Trajectory]) -> None:
        """Hear how the episodes of a step went: of all its groups, failed ones among them."""

    def plays(self, task: Task) -> bool:
        """Whether ``task`` may come next. If none may, all may."""
        return True

    def weights(self, weights: Mapping[str, float]) -> Mapping[str, float]:
        """The weight of each kind of task in the next step; ``weights`` are those of agent.yaml."""
        return weights

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; JSON-able."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` gave; called after ``begin``."""
        return

    def metrics(self) -> Mapping[str, float]:
        """For metrics.jsonl, in which each name begins with ``curriculum/``."""
        return {}

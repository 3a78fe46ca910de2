"""Early stopping on the reward of tasks that are not trained on; the best weights are kept.

The tasks are not those of the evaluation either: of many measurements the best is also the luckiest,
and what was chosen by it needs another to be told by.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_host.config.schema import EarlyStoppingConfig
from grpo_host.training.policy import Policy
from grpo_host.training.ranks.process_group import Ranks
from grpo_sdk.environment import TRAIN, Environment
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task

VALIDATION = "validation"
"""The split on which weights are chosen, if the environment offers it."""
HELD_BACK = "train, held back"
"""Training tasks that are not trained on; one in ``HELD_BACK_EVERY``."""
HELD_BACK_EVERY = 10
LEAST = 5
"""Of fewer training tasks none is held back."""
BEST = "best-"
"""The best weights so far are beside the checkpoints, named by this and their step."""


@dataclass(frozen=True)
class Choosing:
    """The tasks that are trained on, and those by which weights are chosen."""

    train: Sequence[Task]
    tasks: Sequence[Task]
    split: str
    """Where the second come from: ``VALIDATION``, ``HELD_BACK``, or ``TRAIN`` if none can be spared."""


def choosing(environment: Environment, *, seed: int, reported: str) -> Choosing:
    """How ``environment``'s tasks are divided where its split ``reported`` tells what training came to."""
    train = environment.tasks(TRAIN)
    try:
        offered = environment.tasks(VALIDATION) if reported != VALIDATION else ()
    except ValueError:  # it has no such split
        offered = ()
    if offered:
        return Choosing(train, offered, VALIDATION)
    if len(train) < LEAST:
        return Choosing(train, train, TRAIN)
    count = max(1, len(train) // HELD_BACK_EVERY)
    held = set(random.Random(derive_seed(seed, HELD_BACK)).sample([task.id for task in train], count))
    return Choosing(
        [task for task in train if task.id not in held],
        [task for task in train if task.id in held],
        HELD_BACK,
    )


class EarlyStopping:
    """Measures first, every so many steps and at the last; says when the reward has not risen for too long.

    ``measure(step)`` gives the mean reward on tasks of ``split``, or None if nothing could be scored,
    which counts as no better. ``report`` is what ``as_dict`` gave before the run was interrupted.
    """

    def __init__(
        self,
        settings: EarlyStoppingConfig,
        policy: Policy,
        checkpoints: Path,
        measure: Callable[[int], float | None],
        on_change: Callable[[], None] = lambda: None,
        *,
        split: str,
        last_step: int,
        ranks: Ranks | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.split = split
        self.stopped_at: int | None = None
        self.best_step = 0
        self.best_reward: float | None = None
        self.history: dict[int, float | None] = {}
        self._policy = policy
        self._measure = measure
        self._on_change = on_change
        self._last_step = last_step
        self._ranks = ranks or Ranks()
        self._checkpoints = checkpoints
        self._known: Mapping[str, Any] = report if report and report.get("split") == split else {}

    def begin(self, step: int) -> None:
        """Start after ``step``: with what was measured until then, and here if that is still to be done."""
        for at, value in self._known.get("rewards", {}).items():
            if int(at) <= step:
                self._note(int(at), value)
        first = not self.history
        lost = first or not self._ranks.broadcast(self._best.is_dir())
        if lost and self.best_step != step:  # it may have been measured, but its weights are gone
            self.best_step, self.best_reward = step, None
        better = False
        if step not in self.history and (first or self._is_due(step)):
            better = self._note(step, self._measure(step))
        if lost or better:
            self._keep()
        self._stop_after(max(self.history))
        self._on_change()

    def after_step(self, step: int) -> bool:
        """Measure if it is time to; True if training is to stop."""
        if self._is_due(step):
            if self._note(step, self._measure(step)):
                self._keep()
            self._stop_after(step)
            self._on_change()
        return self.stopped_at is not None

    def _is_due(self, step: int) -> bool:
        return step % self.settings.every == 0 or step == self._last_step

    def _stop_after(self, step: int) -> None:
        if step - self.best_step >= self.settings.patience:
            self.stopped_at = step

    def restore_best(self, last_step: int) -> None:
        """Give the policy the weights that measured best, unless they are the last step's."""
        self._ranks.broadcast(None)  # rank 0 has written them
        if self.best_step != last_step:
            self._policy.load(self._best)

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "split": self.split,
            "rewards": {str(step): reward for step, reward in self.history.items()},
            "best_step": self.best_step,
            "stopped_at": self.stopped_at,
        }

    def _note(self, step: int, reward: float | None) -> bool:
        """Whether ``reward`` is the best so far."""
        self.history[step] = reward
        if reward is None:
            return False
        if self.best_reward is not None and reward <= self.best_reward + self.settings.min_delta:
            return False
        self.best_step, self.best_reward = step, reward
        return True

    def _keep(self) -> None:
        self._policy.save(self._best)
        if not self._ranks.main:
            return
        for path in self._checkpoints.glob(f"{BEST}*"):
            if path != self._best:
                shutil.rmtree(path, ignore_errors=True)

    @property
    def _best(self) -> Path:
        return self._checkpoints / f"{BEST}{self.best_step}"

"""Early stopping on the reward of tasks that are not trained on; the best weights are kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grpo_host.config.schema import EarlyStoppingConfig
from grpo_host.training.distributed import Ranks
from grpo_host.training.policy import Policy

BEST = "best-"
"""The best weights so far are beside the checkpoints, named by this and their step."""


class EarlyStopping:
    """Measures every so many steps and at the last, and says when the reward has not risen for too long.

    ``measure(step)`` gives the mean reward, or None where nothing could be scored, which counts as
    no better. ``report`` is what ``as_dict`` gave before the run was interrupted.
    """

    def __init__(
        self,
        settings: EarlyStoppingConfig,
        policy: Policy,
        checkpoints: Path,
        measure: Callable[[int], float | None],
        on_change: Callable[[], None] = lambda: None,
        *,
        last_step: int,
        ranks: Ranks | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
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
        self._known: dict[str, Any] = dict(report or {})

    def begin(self, step: int, reward: float | None) -> None:
        """Start after ``step``, at ``reward`` or with what was measured until then before an interruption."""
        for at, value in self._known.get("rewards", {}).items():
            if int(at) <= step:
                self._note(int(at), value)
        stopped = self._known.get("stopped_at")
        self.stopped_at = stopped if stopped is not None and stopped <= step else None
        if not self.history:
            self._note(step, reward)
        if self._ranks.agree(self._best.is_dir()):
            return
        if self.best_step != step:  # measured before, but its weights are gone
            self.best_step, self.best_reward = step, None
        self._keep()

    def after_step(self, step: int) -> bool:
        """Measure if it is time to; True where training is to stop."""
        if step % self.settings.every == 0 or step == self._last_step:
            if self._note(step, self._measure(step)):
                self._keep()
            if step - self.best_step >= self.settings.patience:
                self.stopped_at = step
            self._on_change()
        return self.stopped_at is not None

    def restore_best(self, last_step: int) -> None:
        """Give the policy the weights that measured best, unless they are the last step's."""
        self._ranks.agree(None)  # rank 0 has written them
        if self.best_step != last_step:
            self._policy.load(self._best)

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {
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
        if not self._ranks.main:
            return
        self._policy.save(self._best)
        for path in self._checkpoints.glob(f"{BEST}*"):
            if path != self._best:
                shutil.rmtree(path, ignore_errors=True)

    @property
    def _best(self) -> Path:
        return self._checkpoints / f"{BEST}{self.best_step}"

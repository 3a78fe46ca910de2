"""What happens beside a training step: metrics on disk and on screen, stopping, complete checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from grpo_host.runs.directory import RunDirectory
from grpo_host.training.checkpoints import complete_checkpoint
from grpo_host.training.early_stopping import EarlyStopping
from grpo_host.training.interrupt import Interrupt, StopTraining
from grpo_host.training.ranks.process_group import Ranks
from grpo_host.training.trl.steps import finished_steps, step_under_way


class StepMetrics(TrainerCallback):  # type: ignore[misc]
    """Writes one line of metrics.jsonl a step, and shows and announces it."""

    def __init__(
        self,
        directory: RunDirectory,
        phases: Callable[[], dict[str, float | None]],
        show: Callable[[int, Mapping[str, Any]], None],
    ) -> None:
        self._directory = directory
        self._phases = phases
        self._show = show

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        step = finished_steps(args, state)
        if not logs or "loss" not in logs or step is None:
            return
        values = {name: _json_number(value) for name, value in logs.items()}
        values.pop("epoch", None)  # of the rows in hand, which are only the rest if a run goes on
        phases = self._phases()
        spent = sum(value or 0.0 for name, value in phases.items() if name.startswith("seconds/"))
        # TRL's step_time holds all of a step, rollouts included.
        values["seconds/training"] = max(0.0, values.pop("step_time", spent) - spent)
        values.update(phases)
        line = {"step": step, "time": time.time(), **values}
        self._directory.append_metrics(line)
        self._show(step, line)


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """Leaves the training loop between two passes when a signal has come.

    If a batch has several updates: before the first of them, or after the last.
    """

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if finished_steps(args, state) is not None:
            self._interrupt.check()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if finished_steps(args, state) is not None and self._interrupt.together():
            control.should_save = control.should_training_stop = True
        return control


class StopEarly(TrainerCallback):  # type: ignore[misc]
    """Ends training where the reward has stopped rising on tasks that are not trained on."""

    def __init__(self, early: EarlyStopping) -> None:
        self._early = early

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        step = finished_steps(args, state)
        if step is None:
            return control
        try:
            stops = self._early.after_step(step)
        except StopTraining:
            # The step is done and is saved; it is measured when the run goes on.
            stops = True
        if stops:
            control.should_save = control.should_training_stop = True
        return control


class CompleteCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint as complete once everything else of it is written."""

    def __init__(self, state: Callable[[int], dict[str, Any]], ranks: Ranks | None = None) -> None:
        self._state = state
        self._ranks = ranks or Ranks()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = step_under_way(args, state) - 1
        complete_checkpoint(Path(args.output_dir), state.global_step, self._state(step), self._ranks)


def _json_number(value: Any) -> Any:
    """JSON has no NaN; a missing number is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

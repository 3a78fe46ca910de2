"""What happens beside a training step: metrics on disk and on screen, stopping, complete checkpoints."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from grpo_host.run_directory import RunDirectory, remedy, write_text
from grpo_host.training.early_stopping import EarlyStopping
from grpo_host.training.finite import MEND, nonfinite_weights
from grpo_host.training.interrupt import Interrupt, StopTraining
from grpo_sdk.errors import RunError

COMPLETE = "grpo_state.json"
"""Written last into a checkpoint: without it the checkpoint is half and is not resumed from."""

KEPT_CHECKPOINTS = 2


class StepMetrics(TrainerCallback):  # type: ignore[misc]
    """Writes one line of metrics.jsonl a step, and shows and announces it."""

    def __init__(
        self,
        directory: RunDirectory,
        phases: Callable[[], dict[str, float]],
        show: Callable[[int, Mapping[str, Any]], None],
    ) -> None:
        self._directory = directory
        self._phases = phases
        self._show = show

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        values = {name: _json_number(value) for name, value in logs.items()}
        values.pop("epoch", None)  # of the rows in hand, which are only the rest where a run goes on
        phases = self._phases()
        spent = sum(value for name, value in phases.items() if name.startswith("seconds/"))
        # TRL's step_time holds all of a step, rollouts included.
        values["seconds/training"] = max(0.0, values.pop("step_time", spent) - spent)
        values.update(phases)
        line = {"step": state.global_step, "time": time.time(), **values}
        self._directory.append_metrics(line)
        self._show(state.global_step, line)


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """Leaves the training loop between two passes when a signal has come."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._interrupt.check()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if self._interrupt.together():
            control.should_save = control.should_training_stop = True
        return control


class StopEarly(TrainerCallback):  # type: ignore[misc]
    """Ends training where the reward has stopped rising on tasks that are not trained on."""

    def __init__(self, early: EarlyStopping) -> None:
        self._early = early

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        try:
            stops = self._early.after_step(state.global_step)
        except StopTraining:
            # The step is done and is saved; it is measured when the run goes on.
            stops = True
        if stops:
            control.should_save = control.should_training_stop = True
        return control


class CompleteCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint as complete once everything else of it is written."""

    def __init__(self, state: Callable[[], dict[str, Any]]) -> None:
        self._state = state

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        complete_checkpoint(Path(args.output_dir), state.global_step, self._state())


def checkpoint_path(checkpoints: Path, step: int) -> Path:
    """Where the trainer saves after ``step``."""
    return checkpoints / f"checkpoint-{step}"


def complete_checkpoint(checkpoints: Path, step: int, state: Mapping[str, Any]) -> None:
    """Mark the checkpoint of ``step`` as complete, and only then remove older ones. Raises ``RunError``."""
    try:
        mark_complete(checkpoint_path(checkpoints, step), state)
    except OSError as problem:
        raise checkpoint_error(problem, checkpoints) from problem
    for path in _by_step(checkpoints)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(path, ignore_errors=True)


def mark_complete(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Declare ``checkpoint`` whole, with our own state in it, once all of it is on the disk.

    Raises ``RunError`` where the weights in it are not finite.
    """
    if found := nonfinite_weights(checkpoint):
        shutil.rmtree(checkpoint, ignore_errors=True)
        raise RunError(f"the weights of {checkpoint} are not finite (in {found}); it was deleted. {MEND}")
    for path in [*checkpoint.rglob("*"), checkpoint]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    write_text(checkpoint / COMPLETE, json.dumps(state))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What ``mark_complete`` put into ``checkpoint``."""
    state: dict[str, Any] = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    return state


def latest_checkpoint(checkpoints: Path) -> Path | None:
    """The complete checkpoint of the last step."""
    return next((path for path in reversed(_by_step(checkpoints)) if _is_complete(path)), None)


def _by_step(checkpoints: Path) -> list[Path]:
    """All checkpoints; not by their files' times, since clocks go back."""
    return sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def remove_incomplete(checkpoints: Path) -> None:
    """Delete checkpoints that a crash or a full disk left half, or whose weights are not finite."""
    for path in checkpoints.glob("checkpoint-*"):
        if not _is_complete(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_complete(checkpoint: Path) -> bool:
    return (checkpoint / COMPLETE).is_file() and nonfinite_weights(checkpoint) is None


def checkpoint_error(problem: Exception, checkpoints: Path) -> RunError:
    """What to tell a user whose checkpoint could not be written; the half of it is removed."""
    what = remedy(problem, checkpoints)
    remove_incomplete(checkpoints)
    kept = latest_checkpoint(checkpoints)
    last = f"the last complete checkpoint is {kept}" if kept else "there was no checkpoint before"
    return RunError(
        f"cannot save a checkpoint in {checkpoints}: {problem}; {last}. {what} and run again with --resume"
    )


def _json_number(value: Any) -> Any:
    """JSON has no NaN; a missing number is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

from __future__ import annotations

import errno
import json
import os
import signal
from types import SimpleNamespace

import pytest

from grpo_host.run_directory import RunDirectory
from grpo_host.training.interrupt import Interrupt, StopTraining
from grpo_sdk import RunError

pytestmark = pytest.mark.model


@pytest.fixture
def callbacks(heavy):
    from grpo_host.training import callbacks

    return callbacks


@pytest.fixture
def directory(tmp_path):
    made = RunDirectory.create(tmp_path, "desk")
    yield made
    made.release()


def checkpoint(root, step, *, complete, value=1.0):
    import torch
    from safetensors.torch import save_file

    path = root / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file(
        {"lora_A": torch.ones(2), "lora_B": torch.tensor([1.0, value])}, path / "adapter_model.safetensors"
    )
    if complete:
        (path / "grpo_state.json").write_text("{}")
    return path


def test_each_step_is_one_line_of_metrics_with_its_phases(callbacks, directory):
    shown = []
    metrics = callbacks.StepMetrics(
        directory, lambda: {"seconds/rollouts": 1.5}, lambda step, line: shown.append((step, line))
    )
    logs = {
        "step_time": 4.0,
        "loss": 0.1,
        "reward": 0.5,
        "rewards/tone/mean": float("nan"),
        "kl": float("inf"),
        "epoch": 0.5,
    }
    metrics.on_log(None, SimpleNamespace(global_step=3), None, logs=logs)
    [line] = directory.read_metrics()
    assert line.pop("time") > 0
    assert line == {
        "step": 3, "loss": 0.1, "reward": 0.5, "rewards/tone/mean": None, "kl": None,
        "seconds/rollouts": 1.5, "seconds/training": 2.5,
    }  # fmt: skip
    assert shown[0][0] == 3
    assert shown[0][1]["reward"] == 0.5


def test_what_trl_logs_at_the_end_is_no_step(callbacks, directory):
    metrics = callbacks.StepMetrics(directory, dict, lambda step, line: None)
    metrics.on_log(None, SimpleNamespace(global_step=3), None, logs={"train_runtime": 1.0})
    metrics.on_log(None, SimpleNamespace(global_step=3), None, logs=None)
    assert directory.read_metrics() == []


def test_a_signal_leaves_between_two_passes_and_saves_after_a_step(callbacks):
    interrupt = Interrupt()
    stop = callbacks.StopOnSignal(interrupt)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop.on_substep_end(None, None, control)
    assert stop.on_step_end(None, None, control) == SimpleNamespace(
        should_save=False, should_training_stop=False
    )
    interrupt.signal = signal.SIGTERM
    with pytest.raises(StopTraining):
        stop.on_substep_end(None, None, control)
    assert stop.on_step_end(None, None, control) == SimpleNamespace(
        should_save=True, should_training_stop=True
    )


def test_a_checkpoint_is_marked_complete_with_our_state(callbacks, tmp_path):
    path = checkpoint(tmp_path, 4, complete=False)
    assert callbacks.latest_checkpoint(tmp_path) is None
    complete = callbacks.CompleteCheckpoints(lambda: {"policy_version": 7})
    complete.on_save(SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(global_step=4), None)
    assert callbacks.latest_checkpoint(tmp_path) == path
    assert json.loads((path / "grpo_state.json").read_text()) == {"policy_version": 7}


def test_the_newest_complete_checkpoint_counts_not_the_longest_name(callbacks, tmp_path):
    for step in (2, 10, 9):
        checkpoint(tmp_path, step, complete=True)
    checkpoint(tmp_path, 11, complete=False)
    (tmp_path / "warm-start").mkdir()
    assert callbacks.latest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert callbacks.latest_checkpoint(tmp_path / "none") is None


def test_the_checkpoints_of_the_last_two_steps_are_kept_whatever_the_clock_says(callbacks, tmp_path):
    for step in (2, 9, 10):
        os.utime(checkpoint(tmp_path, step, complete=True), (2e9 - step, 2e9 - step))
    checkpoint(tmp_path, 11, complete=False)
    callbacks.complete_checkpoint(tmp_path, 11, {})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-11"}
    assert callbacks.latest_checkpoint(tmp_path) == tmp_path / "checkpoint-11"


def test_no_checkpoint_is_removed_before_the_new_one_is_complete(callbacks, tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint(tmp_path, step, complete=True)
    checkpoint(tmp_path, 3, complete=False)

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"Input/output error; .*checkpoint-2\. Mend that and run again"):
        callbacks.complete_checkpoint(tmp_path, 3, {})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-2"}


def test_what_cuts_off_a_measurement_lets_the_step_be_logged_and_saved(callbacks):
    def cut_off(step):
        raise StopTraining

    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop = callbacks.StopEarly(SimpleNamespace(after_step=cut_off))
    assert stop.on_step_end(None, SimpleNamespace(global_step=3), control) == SimpleNamespace(
        should_save=True, should_training_stop=True
    )


def test_only_half_checkpoints_are_removed(callbacks, tmp_path):
    whole, half = checkpoint(tmp_path, 1, complete=True), checkpoint(tmp_path, 2, complete=False)
    (tmp_path / "warm-start").mkdir()
    callbacks.remove_incomplete(tmp_path)
    callbacks.remove_incomplete(tmp_path / "none")
    assert whole.is_dir()
    assert (tmp_path / "warm-start").is_dir()
    assert not half.exists()


@pytest.mark.parametrize(
    ("complete", "says"),
    [(True, r"the last complete checkpoint is .*checkpoint-1\."), (False, "there was no checkpoint before")],
)
def test_a_full_disk_names_the_checkpoint_that_is_left(callbacks, tmp_path, complete, says):
    checkpoint(tmp_path, 1, complete=complete)
    checkpoint(tmp_path, 2, complete=False)
    error = callbacks.checkpoint_error(OSError(28, "No space left on device"), tmp_path)
    with pytest.raises(
        type(error), match=f"cannot save a checkpoint in .*: .*No space left on device; {says}.*--resume"
    ):
        raise error
    assert not (tmp_path / "checkpoint-2").exists()


def test_a_state_is_written_whole_or_not_at_all(callbacks, tmp_path):
    with pytest.raises(TypeError):
        callbacks.mark_complete(checkpoint(tmp_path, 1, complete=False), {"x": object()})
    assert callbacks.latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_that_is_not_finite_is_never_complete(callbacks, tmp_path, value):
    finite = checkpoint(tmp_path, 1, complete=True)
    broken = checkpoint(tmp_path, 2, complete=True, value=value)
    assert callbacks.latest_checkpoint(tmp_path) == finite
    callbacks.remove_incomplete(tmp_path)
    assert finite.is_dir()
    assert not broken.exists()


def test_a_checkpoint_that_cannot_be_read_is_not_complete(callbacks, tmp_path):
    finite = checkpoint(tmp_path, 1, complete=True)
    (checkpoint(tmp_path, 2, complete=True) / "adapter_model.safetensors").write_text("half")
    assert callbacks.latest_checkpoint(tmp_path) == finite


def test_weights_that_are_not_finite_are_not_called_a_checkpoint(callbacks, tmp_path):
    broken = checkpoint(tmp_path, 2, complete=False, value=float("nan"))
    with pytest.raises(RunError, match=r"checkpoint-2 are not finite \(in lora_B of adapter_model.*--resume"):
        callbacks.mark_complete(broken, {})
    assert not broken.exists()

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from grpo_host.runs.directory import RunDirectory
from grpo_host.training.interrupt import Interrupt, StopTraining

pytestmark = pytest.mark.model


@pytest.fixture
def callbacks(heavy):
    from grpo_host.training.trl import callbacks

    return callbacks


@pytest.fixture
def directory(tmp_path):
    made = RunDirectory.create(tmp_path, "desk")
    yield made
    made.release()


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


def test_a_checkpoint_is_marked_complete_when_it_is_saved(callbacks, tmp_path):
    from grpo_host.training.checkpoints import read_state

    path = tmp_path / "checkpoint-4"
    path.mkdir()
    complete = callbacks.CompleteCheckpoints(lambda step: {"policy_version": step + 3})
    complete.on_save(SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace(global_step=4), None)
    assert read_state(path)["policy_version"] == 7


def test_what_cuts_off_a_measurement_lets_the_step_be_logged_and_saved(callbacks):
    def cut_off(step):
        raise StopTraining

    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop = callbacks.StopEarly(SimpleNamespace(after_step=cut_off))
    assert stop.on_step_end(None, SimpleNamespace(global_step=3), control) == SimpleNamespace(
        should_save=True, should_training_stop=True
    )

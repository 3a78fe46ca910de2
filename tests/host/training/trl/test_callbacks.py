from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from grpo_host.runs.directory import RunDirectory
from grpo_host.training.interrupt import Interrupt, StopTraining

pytestmark = pytest.mark.model

ONE_UPDATE = SimpleNamespace(gradient_accumulation_steps=2, steps_per_generation=2, num_iterations=1)
TWO_UPDATES = SimpleNamespace(gradient_accumulation_steps=1, steps_per_generation=2, num_iterations=1)


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
    metrics.on_log(ONE_UPDATE, SimpleNamespace(global_step=3), None, logs=logs)
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
    metrics.on_log(ONE_UPDATE, SimpleNamespace(global_step=3), None, logs={"train_runtime": 1.0})
    metrics.on_log(ONE_UPDATE, SimpleNamespace(global_step=3), None, logs=None)
    assert directory.read_metrics() == []


def test_a_signal_leaves_between_two_passes_and_saves_after_a_step(callbacks):
    interrupt = Interrupt()
    stop = callbacks.StopOnSignal(interrupt)
    state = SimpleNamespace(global_step=3)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop.on_substep_end(ONE_UPDATE, state, control)
    assert stop.on_step_end(ONE_UPDATE, state, control) == SimpleNamespace(
        should_save=False, should_training_stop=False
    )
    interrupt.signal = signal.SIGTERM
    with pytest.raises(StopTraining):
        stop.on_substep_end(ONE_UPDATE, state, control)
    assert stop.on_step_end(ONE_UPDATE, state, control) == SimpleNamespace(
        should_save=True, should_training_stop=True
    )


def test_a_checkpoint_is_marked_complete_when_it_is_saved(callbacks, tmp_path):
    from grpo_host.training.checkpoints import read_state

    path = tmp_path / "checkpoint-4"
    path.mkdir()
    complete = callbacks.CompleteCheckpoints(lambda step: {"policy_version": 7, "step": step})
    args = SimpleNamespace(output_dir=str(tmp_path), **vars(TWO_UPDATES))
    complete.on_save(args, SimpleNamespace(global_step=4), None)
    assert read_state(path)["policy_version"] == 7
    assert read_state(path)["step"] == 2, "of two updates each"


def test_what_cuts_off_a_measurement_lets_the_step_be_logged_and_saved(callbacks):
    def cut_off(step):
        raise StopTraining

    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stop = callbacks.StopEarly(SimpleNamespace(after_step=cut_off))
    assert stop.on_step_end(ONE_UPDATE, SimpleNamespace(global_step=3), control) == SimpleNamespace(
        should_save=True, should_training_stop=True
    )


def test_within_a_batch_of_several_updates_nothing_is_stopped_or_written(callbacks, directory):
    interrupt = Interrupt()
    interrupt.signal = signal.SIGTERM
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    within, between = SimpleNamespace(global_step=3), SimpleNamespace(global_step=4)
    stop, measured = callbacks.StopOnSignal(interrupt), []
    early = callbacks.StopEarly(SimpleNamespace(after_step=measured.append))
    metrics = callbacks.StepMetrics(directory, dict, lambda step, line: None)
    stop.on_substep_end(TWO_UPDATES, within, control)
    stop.on_step_end(TWO_UPDATES, within, control)
    early.on_step_end(TWO_UPDATES, within, control)
    metrics.on_log(TWO_UPDATES, within, None, logs={"loss": 0.1})
    assert not control.should_save
    assert measured == directory.read_metrics() == []
    stop.on_step_end(TWO_UPDATES, between, control)
    early.on_step_end(TWO_UPDATES, between, control)
    metrics.on_log(TWO_UPDATES, between, None, logs={"loss": 0.1})
    assert control.should_save
    assert measured == [line["step"] for line in directory.read_metrics()] == [2]

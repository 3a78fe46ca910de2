from __future__ import annotations

from pathlib import Path

import pytest

from grpo_host.config.schema import EarlyStoppingConfig
from grpo_host.training.early_stopping import EarlyStopping, choosing
from grpo_sdk import Environment, Task


class Weights:
    """A policy whose weights are one number."""

    def __init__(self):
        self.value = 0

    def save(self, path: Path):
        path.mkdir(parents=True)
        (path / "weights").write_text(str(self.value))

    def load(self, path: Path):
        self.value = int((path / "weights").read_text())


def train(tmp_path, rewards, *, start=0.5, steps=None, begin=0, report=None, **settings):
    """Train until ``rewards`` (by step, from ``begin`` + 1) or the patience runs out; ``start``: at ``begin``."""
    policy = Weights()
    policy.value = begin
    given = {begin: start, **dict(enumerate(rewards, begin + 1))}
    early = EarlyStopping(
        EarlyStoppingConfig(**{"every": 1, "patience": 2, **settings}),
        policy,
        tmp_path,
        given.__getitem__,
        split="validation",
        last_step=steps or begin + len(rewards),
        report=report,
    )
    early.begin(begin)
    last = begin
    while not early.stopped_at and last < begin + len(rewards):
        last = policy.value = last + 1
        early.after_step(last)
    early.restore_best(last)
    return early, policy


def test_training_goes_on_while_the_reward_rises(tmp_path):
    early, policy = train(tmp_path, [0.6, 0.7, 0.8, 0.9])
    assert early.stopped_at is None
    assert policy.value == 4


def test_it_stops_when_the_patience_is_used_up_and_keeps_the_best(tmp_path):
    early, policy = train(tmp_path, [0.6, 0.9, 0.8, 0.85, 0.95])
    assert early.stopped_at == 4
    assert policy.value == early.best_step == 2


def test_a_model_that_only_gets_worse_is_given_back_as_it_was(tmp_path):
    _, policy = train(tmp_path, [0.4, 0.3, 0.2])
    assert policy.value == 0


def test_the_best_counts_also_where_training_is_not_stopped(tmp_path):
    _, policy = train(tmp_path, [0.9, 0.8], patience=50)
    assert policy.value == 1


def test_a_gain_below_the_least_that_counts_is_none(tmp_path):
    early, _ = train(tmp_path, [0.505, 0.51, 0.9], min_delta=0.02)
    assert early.stopped_at == 2


def test_it_measures_every_so_many_steps_and_counts_patience_in_steps(tmp_path):
    early, _ = train(tmp_path, [0.1] * 10, every=3, patience=6)
    assert list(early.history) == [0, 3, 6]
    assert early.stopped_at == 6


@pytest.mark.parametrize(("steps", "measured"), [(5, [0, 5]), (25, [0, 10, 20, 25])])
def test_the_last_step_is_measured_too_so_that_no_training_is_lost(tmp_path, steps, measured):
    early, policy = train(tmp_path, [0.5 + step / 100 for step in range(1, steps + 1)], every=10, patience=50)
    assert list(early.history) == measured
    assert policy.value == steps


def test_nothing_that_could_be_scored_is_no_better(tmp_path):
    early, policy = train(tmp_path, [None, None])
    assert early.stopped_at == 2
    assert policy.value == 0


def test_an_interrupted_run_goes_on_with_what_it_had_measured(tmp_path):
    first, _ = train(tmp_path, [0.9, 0.8], patience=3)
    second, policy = train(tmp_path, [0.7], begin=2, patience=3, report=first.as_dict())
    assert second.stopped_at is None or second.stopped_at == 3
    assert second.best_step == 1
    assert (policy.value, list(second.history)) == (1, [0, 1, 2, 3])


def test_what_was_measured_after_the_checkpoint_is_forgotten(tmp_path):
    first, _ = train(tmp_path, [0.6, 0.9], patience=9)
    second, policy = train(tmp_path, [0.7], begin=1, patience=9, report=first.as_dict())
    assert (second.best_step, second.best_reward) == (2, 0.7), "the weights of step 2 before are gone"
    assert policy.value == 2


def test_a_run_that_had_stopped_stays_stopped(tmp_path):
    first, _ = train(tmp_path, [0.1, 0.1])
    second, policy = train(tmp_path, [0.9], begin=2, report=first.as_dict())
    assert first.stopped_at == second.stopped_at == 2
    assert policy.value == 0


def test_a_run_that_had_stopped_goes_on_with_more_patience(tmp_path):
    first, _ = train(tmp_path, [0.1, 0.1])
    second, policy = train(tmp_path, [0.9], begin=2, report=first.as_dict(), patience=3)
    assert second.stopped_at is None
    assert policy.value == second.best_step == 3


def test_a_measurement_that_an_interruption_cut_off_is_made_before_training_goes_on(tmp_path):
    first, _ = train(tmp_path, [0.6])
    second, policy = train(tmp_path, [0.8], start=0.9, begin=2, report=first.as_dict())
    assert second.history == {0: 0.5, 1: 0.6, 2: 0.9, 3: 0.8}
    assert policy.value == 2


def test_between_two_measurements_none_is_made_where_a_run_goes_on(tmp_path):
    first, _ = train(tmp_path, [0.6, 0.7], every=2)
    second, _ = train(tmp_path, [0.8], begin=3, every=2, report=first.as_dict())
    assert list(second.history) == [0, 2, 4]


def test_what_was_measured_on_other_tasks_does_not_count(tmp_path):
    first, _ = train(tmp_path, [0.9, 0.9])
    second, _ = train(tmp_path, [0.6], begin=2, report={**first.as_dict(), "split": "held_out"})
    assert second.history == {2: 0.5, 3: 0.6}


class Tasks(Environment):
    """An environment that is nothing but its tasks."""

    def __init__(self, **splits):
        self.splits = splits

    def tasks(self, split):
        if split not in self.splits:
            raise ValueError(f'no split "{split}"')
        return [Task(f"{split}-{number}", split=split) for number in range(self.splits[split])]

    async def reset(self, task, *, seed):
        raise NotImplementedError

    async def step(self, action):
        raise NotImplementedError


def test_weights_are_chosen_on_the_validation_split_where_there_is_one():
    environment = Tasks(train=30, held_out=5, validation=7)
    made = choosing(environment, seed=0, reported="held_out")
    assert made.split == "validation"
    assert made.tasks == environment.tasks("validation")
    assert made.train == environment.tasks("train")


@pytest.mark.parametrize("splits", [{}, {"validation": 0}])
def test_else_on_a_tenth_of_the_training_tasks_that_is_not_trained_on(splits):
    environment = Tasks(train=30, held_out=5, **splits)
    made = choosing(environment, seed=0, reported="held_out")
    assert made.split == "train, held back"
    assert (len(made.train), len(made.tasks)) == (27, 3)
    assert {task.id for task in [*made.train, *made.tasks]} == {t.id for t in environment.tasks("train")}
    assert made == choosing(environment, seed=0, reported="held_out")
    assert made.tasks != choosing(environment, seed=1, reported="held_out").tasks


def test_weights_are_not_chosen_on_what_the_evaluation_reports():
    made = choosing(Tasks(train=30, validation=7), seed=0, reported="validation")
    assert made.split == "train, held back"


def test_of_a_handful_of_training_tasks_none_is_held_back_and_that_is_said():
    made = choosing(Tasks(train=4, held_out=0), seed=0, reported="train")
    assert made.split == "train"
    assert made.tasks == made.train
    assert len(choosing(Tasks(train=5), seed=0, reported="train").tasks) == 1


def test_only_the_best_weights_are_kept_on_disk(tmp_path):
    train(tmp_path, [0.6, 0.7, 0.8])
    assert [path.name for path in tmp_path.iterdir()] == ["best-3"]


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"every": 0}, {"min_delta": -1}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EarlyStoppingConfig(**wrong)

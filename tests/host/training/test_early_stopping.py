from __future__ import annotations

from pathlib import Path

import pytest

from grpo_host.config.schema import EarlyStoppingConfig
from grpo_host.training.early_stopping import EarlyStopping


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
    """Train until ``rewards`` (by step, from ``begin`` + 1) or the patience runs out."""
    policy = Weights()
    policy.value = begin
    given = dict(enumerate(rewards, begin + 1))
    early = EarlyStopping(
        EarlyStoppingConfig(**{"every": 1, "patience": 2, **settings}),
        policy,
        tmp_path,
        given.get,
        last_step=steps or begin + len(rewards),
        report=report,
    )
    early.begin(begin, start)
    last = begin
    for last in given:
        policy.value = last
        if early.after_step(last):
            break
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
    second, _ = train(tmp_path, [], begin=2, report=first.as_dict())
    assert first.stopped_at == second.stopped_at == 2


def test_only_the_best_weights_are_kept_on_disk(tmp_path):
    train(tmp_path, [0.6, 0.7, 0.8])
    assert [path.name for path in tmp_path.iterdir()] == ["best-3"]


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"every": 0}, {"min_delta": -1}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EarlyStoppingConfig(**wrong)

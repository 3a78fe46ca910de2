from __future__ import annotations

import pytest

from grpo_host.runs.directory import RunDirectory
from grpo_host.training.resume import KEPT, THERE_OR_NOT, go_on
from grpo_sdk.errors import RunError

YAML = """\
# Made with trl 1.16
name: desk
seed: 0
model: {name: x, context: 512}
rewards: [{name: kind, seconds: 30.0, options: {word: sorry}}]
training: {steps: 9, save_every: 10, early_stopping: null, lora: {r: 16}, warm_start: null}
"""


@pytest.fixture
def directory(tmp_path):
    made = RunDirectory.create(tmp_path, "desk")
    made.agent_yaml.write_text(YAML)
    made.write_json(made.report, {"before": 1, "after": 2})
    yield made
    made.release()


def test_a_run_goes_on_with_its_settings(directory):
    assert go_on(directory, YAML.replace("trl 1.16", "trl 1.17")) == []
    assert directory.agent_yaml.read_text() == YAML
    assert directory.read_report() == {"before": 1, "after": 2}


@pytest.mark.parametrize(
    ("then", "now", "name"),
    [
        ("seed: 0", "seed: 1", "seed"),
        ("context: 512", "context: 256", "model.context"),
        ("word: sorry", "word: thanks", "rewards[0].options.word"),
        ("[{name: kind, seconds: 30.0, options: {word: sorry}}]", "[]", "rewards"),
        ("lora: {r: 16}", "lora: null", "training.lora"),
        ("warm_start: null", "warm_start: {epochs: 2}", "training.warm_start"),
        ("early_stopping: null", "early_stopping: {patience: 2}", "training.early_stopping"),
    ],
)
def test_what_a_runs_results_hang_on_stays(directory, then, now, name):
    with pytest.raises(RunError) as error:
        go_on(directory, YAML.replace(then, now))
    path = directory.path
    assert str(error.value) == (
        f"the run in {path} was begun with another {name}. Go on with its own settings: "
        f"grpo-host run {path}/agent.yaml --resume {path}; or begin a new run without --resume"
    )
    assert directory.agent_yaml.read_text() == YAML


def test_other_settings_may_change_and_are_recorded(directory):
    now = YAML.replace("save_every: 10", "save_every: 2")
    assert go_on(directory, now) == ["training.save_every"]
    assert directory.agent_yaml.read_text() == now
    assert directory.read_report() == {"before": 1, "after": 2}


def test_a_reward_that_was_too_slow_may_be_given_more_time(directory):
    assert go_on(directory, YAML.replace("seconds: 30.0", "seconds: 90.0")) == ["rewards[0].seconds"]


def test_early_stopping_may_change_where_it_is_there(directory):
    then = YAML.replace("early_stopping: null", "early_stopping: {patience: 2}")
    directory.agent_yaml.write_text(then)
    assert go_on(directory, then.replace("patience: 2", "patience: 9")) == [
        "training.early_stopping.patience"
    ]


def test_with_more_steps_the_end_is_measured_anew(directory):
    assert go_on(directory, YAML.replace("steps: 9", "steps: 20")) == ["training.steps"]
    assert directory.read_report() == {"before": 1}


def test_settings_that_the_run_did_not_know_yet_do_not_hinder(directory):
    assert go_on(directory, YAML.replace("lora: {r: 16}", "lora: {r: 16, rank_pattern: {}}")) == []


def test_what_stays_is_the_name_of_a_setting():
    from grpo_host.config.schema import AgentConfig, TrainingConfig

    known = {*AgentConfig.model_fields, *(f"training.{name}" for name in TrainingConfig.model_fields)}
    assert known >= {*KEPT, *THERE_OR_NOT}

"""A run that version 0.1 has written, before messages had spans: it stays readable."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.plugins import load_plugins
from grpo_host.runs.directory import RunDirectory
from grpo_host.runs.versions import describe_run
from grpo_host.training.resume import go_on


@pytest.fixture
def run(tmp_path):
    copied = shutil.copytree(Path(__file__).with_name("run_of_0.1"), tmp_path / "20261128-064354-c11b")
    agent = copied / "agent.yaml"
    agent.write_text(re.sub(r"(?m)^output: .*$", f"output: {tmp_path}", agent.read_text()))
    return RunDirectory(copied)


def test_its_trajectories_come_back_with_tokens_rewards_and_tool_calls(run):
    trajectories = list(run.read_trajectories())
    assert [item.id for item in trajectories] == [f"1/train-0042/{sample}" for sample in range(4)]
    for item in trajectories:
        [sequence] = item.ledger.sequences
        assert len(sequence.ids) == len(sequence.mask) == len(sequence.logprobs) > 100
        assert set(item.rewards) == {"task_success"}
    assert any(turn.tools for item in trajectories for turn in item.turns)


def test_its_metrics_and_report_come_back(run):
    assert [line["step"] for line in run.read_metrics()] == [1, 2]
    assert run.read_report()["steps"] == 2


def test_it_is_gone_on_with(run):
    registry = load_plugins()
    loaded = load_config(run.agent_yaml, ["training.steps=3"], registry)
    assert go_on(run, describe_run(resolve(loaded, registry))) == ["training.steps"]
    assert YAML(typ="safe").load(run.agent_yaml)["training"]["steps"] == 3

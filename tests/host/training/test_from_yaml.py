"""`grpo-host run` as its users run it: a process of its own, a small random model, the real trainer."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.forked import ForkedCommand

from grpo_host.config.load import load_config
from grpo_host.runs.directory import RunDirectory

Start = Callable[..., ForkedCommand]

pytestmark = [pytest.mark.model, pytest.mark.slow]

AGENT = """\
name: tiny
model: {{name: "{model}", context: 256}}
backend: transformers
agent: {{system_prompt: Be kind.}}
environment: {{name: order_desk, options: {{questions: 1}}}}
rewards:
  - {{name: length, weight: 0.5}}
  - {{name: task_success, weight: 0.5}}
sampling: {{max_tokens: 12}}
training:
  steps: 3
  tasks_per_step: 2
  group_size: 2
  micro_batch: 2
  warm_start: {{epochs: 1, max_demonstrations: 4, batch: 2}}
  report_to: [tensorboard]
evaluation: {{episodes: 4}}
output: "{output}"
"""


@pytest.fixture
def agent_yaml(tmp_path: Path, tiny_model_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(AGENT.format(model=tiny_model_path, output=tmp_path / "runs"))
    return path


@pytest.fixture
def start(tmp_path: Path) -> Start:
    logs = itertools.count()
    return lambda *arguments: ForkedCommand(arguments, tmp_path / f"log-{next(logs)}")


def run_of(agent_yaml: Path) -> RunDirectory:
    return RunDirectory.find(agent_yaml.parent / "runs", "tiny")


def wait_for(process: ForkedCommand, pattern: str) -> None:
    if not any(re.search(pattern, line) for line in process.lines()):
        pytest.fail(f"the run ended before it said {pattern}: {process.finish()}")


def test_a_run_leaves_all_that_other_tools_read(agent_yaml: Path, start: Start) -> None:
    process = start("run", agent_yaml)
    output = process.finish()

    assert process.returncode == 0, output
    run = run_of(agent_yaml)
    steps = run.read_metrics()
    assert [line["step"] for line in steps] == [1, 2, 3]
    for key in (
        "reward",
        "rewards/length/mean",
        "rewards/task_success/mean",
        "loss",
        "entropy",
        "seconds/weight_sync",
        "seconds/rollouts",
        "seconds/training",
        "rollouts/tokens_per_second",
        "sampling/importance_sampling_ratio/mean",
    ):
        assert key in steps[0], key
    report = json.loads(run.report.read_text())
    assert report["held_out"] is True
    assert report["steps"] == 3
    assert {"before", "warm_start", "after", "seconds"} <= report.keys()
    assert report["before"]["episodes"] == 4
    for phase in ("before", "after"):
        assert len(report[phase]["conversations"]) == 2
        assert len(re.findall(rf"^held_out-\d+ {phase}: reward", output, re.M)) == 2
    assert f"grpo-host export {run.path}" in output
    played = list(run.read_trajectories())
    assert len(played) == 3 * 4 + 3 * 4, "three evaluations and three steps of four episodes"
    assert all(item.ledger is not None for item in played)
    assert (run.adapter / "adapter_model.safetensors").is_file()
    assert (run.path / "reward.svg").is_file()
    given, again = load_config(agent_yaml).config, load_config(run.agent_yaml).config
    assert (again.model, again.sampling, again.evaluation) == (given.model, given.sampling, given.evaluation)
    assert again.training == given.training
    assert again.environment.options["questions"] == 1
    assert "r: 16" in run.agent_yaml.read_text(), "defaults are written out"
    [board] = run.checkpoints.rglob("events.out.tfevents.*")
    assert b"rewards/task_success/mean" in board.read_bytes()
    assert "trl 1.16" in run.agent_yaml.read_text(), "versions are recorded"
    assert "mean held_out reward" in output
    [cut] = [warning for warning in report["warnings"] if warning["kind"] == "cut"]
    assert cut["step"] == 3, "three steps in a row show it"
    assert f"warning: {cut['message']}" in output.splitlines()


def test_ctrl_c_saves_and_resume_goes_on(agent_yaml: Path, start: Start) -> None:
    settings = ("--set", "training.steps=12", "--set", "training.save_every=100")
    process = start("run", agent_yaml, *settings)
    wait_for(process, r"^step +2/12")
    process.send_signal(signal.SIGINT)
    seen = process.finish()

    assert process.returncode == 128 + signal.SIGINT, seen
    assert "saving a checkpoint" in seen
    again = re.search(r"go on with: grpo-host (.+)", seen)
    assert again, seen
    run = run_of(agent_yaml)
    before = json.loads(run.report.read_text())
    assert list(run.checkpoints.glob("checkpoint-*/grpo_state.json")), "a complete checkpoint"

    version = max(item.policy_version for item in run.read_trajectories())
    steps = len(run.read_metrics()) + 2
    resumed = start(*shlex.split(again[1]), "--set", f"training.steps={steps}")
    output = resumed.finish()

    assert resumed.returncode == 0, output
    assert run_of(agent_yaml).path == run.path
    assert [line["step"] for line in run.read_metrics()] == list(range(1, steps + 1))
    after = json.loads(run.report.read_text())
    assert after["before"] == before["before"], "what was measured is not measured again"
    assert after["seconds"]["training"] > before["seconds"]["training"] > 0
    played = [item for item in run.read_trajectories() if item.id.partition("/")[0].isdigit()]
    assert all(item.policy_version > version for item in played if item.id.startswith(f"{steps}/"))
    assert len({item.id for item in played}) == len(played), "no step is there twice"
    assert "warm start" not in output
    assert after["after"]["episodes"] == 4


def test_a_full_disk_ends_a_run_with_an_error_and_keeps_what_was_written(
    agent_yaml: Path, tmp_path: Path, start: Start
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        process = start(
            *("run", agent_yaml, "--set", f"output={small}"),
            *("--set", "training.save_every=2", "--set", "training.warm_start=null"),
            # There is room for the tokenizer, with which saving is tried, and not for these weights.
            *("--set", "training.lora.r=256"),
        )
        output = process.finish()

        assert process.returncode == 2, output
        assert "error: cannot save a checkpoint in" in output
        assert "Make room and run again with --resume" in output
        run = RunDirectory.find(small, "tiny")
        assert [line["step"] for line in run.read_metrics()] == [1, 2]
        assert len(list(run.read_trajectories())) == 4 + 2 * 4
        assert not list(run.checkpoints.glob("checkpoint-*")), "no half checkpoint is left"
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_run_directory_in_use_is_not_resumed(agent_yaml: Path, start: Start) -> None:
    endless = ("--set", "training.warm_start=null", "--set", "training.steps=100000")
    process = start("run", agent_yaml, *endless)
    try:
        wait_for(process, r"^run ")
        second = start("run", agent_yaml, *endless, "--resume")
        output = second.finish()
        assert process.running, "the first still runs"
    finally:
        process.kill()

    assert second.returncode == 2, output
    assert "is in use by another process" in output


def test_resume_without_a_run_says_how_to_start_one(agent_yaml: Path, start: Start) -> None:
    process = start("run", agent_yaml, "--resume")
    output = process.finish()

    assert process.returncode == 2
    assert "holds no run yet; start one with grpo-host run" in output

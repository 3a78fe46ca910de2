"""A run in a mixture of environments: a small model, the real trainer."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.plugins import load_plugins
from grpo_host.runs.directory import RunDirectory
from grpo_host.utils.progress import Reporter

pytestmark = pytest.mark.model

AGENT = """\
name: mixed
model: {{name: "{model}", context: 160}}
backend: transformers
environments:
  - {{name: arithmetic, options: {{train_tasks: 8, held_out_tasks: 4}}}}
  - {{name: prompts, as: talk, weight: 3, options: {{prompts: [Hi, Ho, Hm], held_out: [Hello]}}}}
rewards: [{{name: length}}, {{name: task_success, environments: [arithmetic]}}]
sampling: {{max_tokens: 4}}
training: {{steps: 2, tasks_per_step: 4, group_size: 2, lora: {{r: 2}}}}
evaluation: {{episodes: 3, before: false}}
output: "{output}"
"""


GENERATORS = """\
name: mixed
model: {{name: "{model}", context: 256}}
backend: transformers
environment: {{name: reasoning_gym, options: {{generators: [gcd, leg_counting], prompt: direct, train_tasks: 8}}}}
rewards: [environment]
sampling: {{max_tokens: 4}}
training:
  steps: 2
  tasks_per_step: 2
  group_size: 2
  lora: {{r: 2}}
  curriculum: {{name: drop_solved, options: {{times: 1}}}}
evaluation: {{episodes: 0}}
output: "{output}"
"""


def trained(text: str, model: Path, path: Path) -> tuple[RunDirectory, list[str]]:
    """What is left of a run, and the lines that it showed."""
    from grpo_host.training.from_yaml import run_training

    (path / "agent.yaml").write_text(text.format(model=model, output=path / "runs"))
    lines: list[str] = []

    class Heard(Reporter):
        def line(self, text: str) -> None:
            lines.append(text)

    with warnings.catch_warnings():
        for text in ("You are using 'rollout_func'", "'pin_memory' argument is set as true"):
            warnings.filterwarnings("ignore", text, UserWarning)
        assert (
            run_training(
                resolve(load_config(path / "agent.yaml"), load_plugins()), reporter=Heard(quiet=True)
            )
            == 0
        )
    return RunDirectory.find(path / "runs", "mixed"), lines


@pytest.fixture(scope="module")
def run(
    heavy: None, tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunDirectory, list[str]]:
    return trained(AGENT, tiny_model_path, tmp_path_factory.mktemp("mixture"))


def test_two_generators_have_metrics_of_their_own_under_a_curriculum(
    heavy: None, tiny_model_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("reasoning_gym", reason="pip install 'grpo-agent-framework[reasoning-gym]'")
    directory, _ = trained(GENERATORS, tiny_model_path, tmp_path)

    for step in directory.read_metrics():
        assert {name: step[f"kinds/{name}/episodes"] for name in ("gcd", "leg_counting")} == {
            "gcd": 2,
            "leg_counting": 2,
        }
        assert step["curriculum/dropped"] == 0.0


def test_each_step_has_metrics_of_each_environment(run: Any) -> None:
    directory, lines = run
    metrics = directory.read_metrics()

    assert [step["kinds/talk/episodes"] for step in metrics] == [6, 6]
    assert [step["kinds/arithmetic/success"] for step in metrics] == [0.0, 0.0]
    assert metrics[0]["kinds/talk/success"] is None
    assert any("\n  arithmetic 0." in line and "  talk 0." in line for line in lines)


def test_each_environment_is_measured(run: Any) -> None:
    directory, lines = run
    after = json.loads(directory.report.read_text())["after"]

    assert {name: of["episodes"] for name, of in after["kinds"].items()} == {"arithmetic": 2, "talk": 1}
    assert any("\n  talk: reward" in line for line in lines)


def test_a_checkpoint_says_where_each_environment_is(run: Any) -> None:
    from grpo_host.training.checkpoints import latest_checkpoint, read_state

    directory, _ = run
    checkpoint = latest_checkpoint(directory.checkpoints)
    assert checkpoint is not None
    assert read_state(checkpoint)["tasks"]["positions"] == {"arithmetic": 2, "talk": 6}

"""Steps of real training as spans and gauges: a small random model, the real backend and trainer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.plugins import load_plugins
from grpo_host.runs.directory import RunDirectory
from grpo_host.telemetry.training import NAMES, metric_name
from grpo_host.utils.progress import Reporter

pytestmark = pytest.mark.model

AGENT = """\
name: tiny
model: {{name: "{model}", context: 256}}
backend: transformers
environment: {{name: order_desk, options: {{questions: 1}}}}
rewards:
  - {{name: length, weight: 0.5}}
  - {{name: task_success, weight: 0.5}}
sampling: {{max_tokens: 12}}
training: {{steps: 2, tasks_per_step: 2, group_size: 2, micro_batch: 2, save_every: 2, beta: 0.1}}
evaluation: {{episodes: 0}}
output: "{output}"
"""

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Trained:
    """A run of two steps: what it told, and its metrics.jsonl."""

    telemetry: Any
    lines: list[dict[str, Any]]

    @property
    def gauges(self) -> dict[str, float]:
        return {name: self.telemetry.points(name)[0].value for name in self.telemetry.metric_names()}


@pytest.fixture(scope="module")
def trained(
    heavy: None, tiny_model_path: Path, make_telemetry: Any, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    import grpo_host.training.telemetry as module
    from grpo_host.training.from_yaml import run_training

    path, collected = tmp_path_factory.mktemp("trained"), make_telemetry()
    (path / "agent.yaml").write_text(AGENT.format(model=tiny_model_path, output=path / "runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACEPARENT", CALLER)
        patch.setattr(
            module, "training_telemetry", lambda size: module.TrainingTelemetry(size, **collected.providers)
        )
        with warnings.catch_warnings():
            for text in ("You are using 'rollout_func'", "'pin_memory' argument is set as true"):
                warnings.filterwarnings("ignore", text, UserWarning)
            status = run_training(
                resolve(load_config(path / "agent.yaml"), load_plugins()), reporter=Reporter(quiet=True)
            )
    assert status == 0
    return Trained(collected, RunDirectory.find(path / "runs", "tiny").read_metrics())


def test_each_step_is_a_trace_of_its_own_with_its_phases(trained: Trained) -> None:
    first = [
        "rl.grpo.step rl.step=1 rl.num_generations_per_prompt=2",
        "  rl.grpo.generation rl.bucket=productive rl.weight_version=1",
        "  rl.grpo.reward_calculation",
        "  rl.grpo.reward_calculation",
        "  rl.grpo.policy_training rl.bucket=productive",
    ]
    second = [line.replace("rl.step=1", "rl.step=2").replace("version=1", "version=2") for line in first]

    assert trained.telemetry.tree(
        "rl.step", "rl.num_generations_per_prompt", "rl.bucket", "rl.weight_version"
    ).splitlines() == [*first, *second, "  rl.grpo.checkpointing rl.bucket=overhead"]


def test_phases_follow_each_other_within_their_step(trained: Trained) -> None:
    spans = trained.telemetry.spans
    step, generation, *scored = spans[:4]
    update = spans[4]

    assert all(generation.start_time <= span.start_time for span in scored)
    assert all(span.end_time <= generation.end_time for span in scored)
    assert step.start_time <= generation.start_time < generation.end_time <= update.start_time
    assert update.end_time <= step.end_time


def test_steps_are_linked_to_the_span_that_asked_for_the_run(trained: Trained) -> None:
    steps = [span for span in trained.telemetry.spans if span.name == "rl.grpo.step"]

    assert [format(span.links[0].context.trace_id, "032x") for span in steps] == [CALLER.split("-")[1]] * 2
    assert len({span.context.trace_id for span in steps}) == 2
    assert all(span.parent is None for span in steps)


def test_numbers_are_gauges_and_not_attributes(trained: Trained) -> None:
    values = [v for span in trained.telemetry.spans for v in (span.attributes or {}).values()]

    assert not any(isinstance(value, float) for value in values)


def test_every_number_that_has_a_name_of_the_field_is_in_the_trainers_line(trained: Trained) -> None:
    missing = [key for key in NAMES if not isinstance(trained.lines[-1].get(key), float)]

    assert missing == [], "the trainer calls it something else now: mend telemetry/training.py's NAMES"


def test_every_number_of_a_line_is_a_gauge(trained: Trained) -> None:
    line = {k: v for k, v in trained.lines[-1].items() if isinstance(v, (int, float))}
    line.pop("time")

    assert trained.gauges == {metric_name(key): pytest.approx(value) for key, value in line.items()}


def test_no_gauge_has_the_step_as_an_attribute(trained: Trained) -> None:
    points = [point for name in trained.gauges for point in trained.telemetry.points(name)]

    assert {tuple(point.attributes) for point in points} == {()}


def test_a_run_that_nobody_watches_makes_no_telemetry(monkeypatch: pytest.MonkeyPatch, heavy: None) -> None:
    from grpo_host.training.telemetry import training_telemetry

    monkeypatch.setattr("grpo_host.telemetry.providers.wanted", lambda: False)

    assert training_telemetry(2) is None


def test_a_phase_that_fails_says_what_failed_and_not_why(telemetry: Any, heavy: None) -> None:
    from grpo_host.training.telemetry import TrainingTelemetry

    watched = TrainingTelemetry(2, **telemetry.providers)

    with pytest.raises(OSError, match="hunter2"), watched._phase("generation"):
        raise OSError("disk of hunter2")

    (span,) = telemetry.spans
    assert (span.name, span.attributes["error.type"]) == ("rl.grpo.generation", "OSError")
    assert "hunter2" not in span.to_json()

"""Metrics and events reach OpenTelemetry, and what the process itself knows of them is right."""

from __future__ import annotations

import json
import logging
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from grpo_host.plugins import load_plugins
from grpo_host.telemetry.monitoring import Monitoring
from grpo_host.telemetry.training import NAMES, StepMetrics, metric_name
from grpo_sdk.backend import Sampling


class Collected:
    """A ``Monitoring`` whose data end in memory."""

    def __init__(self, **options: Any) -> None:
        self.reader, self.logs = InMemoryMetricReader(), InMemoryLogRecordExporter()
        self.events = LoggerProvider(shutdown_on_exit=False)
        self.events.add_log_record_processor(SimpleLogRecordProcessor(self.logs))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.monitoring = Monitoring(meter_provider=self.meters, logger_provider=self.events, **options)

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        metrics = (
            [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        )
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


@pytest.fixture
def collected() -> Collected:
    return Collected()


async def test_a_metric_is_exported_as_a_gauge_with_its_attributes(collected: Collected) -> None:
    await collected.monitoring.log_metric("reward", -0.25, {"domain": "sales"})

    (point,) = collected.points("reward")
    assert (point.value, dict(point.attributes)) == (-0.25, {"domain": "sales"})


def test_a_histogram_is_exported_where_it_is_asked_for(collected: Collected) -> None:
    for seconds in (0.2, 0.4):
        collected.monitoring.record("response_time", seconds, kind="histogram")

    (point,) = collected.points("response_time")
    assert (point.count, point.sum) == (2, pytest.approx(0.6))


async def test_an_event_is_exported_with_its_name_and_nested_attributes(collected: Collected) -> None:
    await collected.monitoring.log_event("user_interaction", {"resolved": True, "path": ["a", {"b": 1}]})

    (log,) = collected.logs.get_finished_logs()
    assert log.log_record.event_name == "user_interaction"
    assert dict(log.log_record.attributes or {}) == {"resolved": True, "path": ("a", {"b": 1})}


def test_the_figures_of_a_metric_are_those_of_its_values(collected: Collected) -> None:
    for value in range(1, 102):
        collected.monitoring.record("latency", value)

    assert collected.monitoring.snapshot()["metrics"]["latency"] == {
        "count": 101,
        "last": 101.0,
        "mean": 51.0,
        "min": 1.0,
        "max": 101.0,
        "p50": 51.0,
        "p95": 96.0,
    }


def test_a_single_value_is_every_figure_of_its_metric(collected: Collected) -> None:
    collected.monitoring.record("quality_score", 0.87)

    figures = collected.monitoring.snapshot()["metrics"]["quality_score"]
    assert {figures[name] for name in ("last", "mean", "min", "max", "p50", "p95")} == {0.87}


def test_the_count_goes_on_where_the_window_forgets() -> None:
    monitoring = Monitoring(window=3)
    for value in range(10):
        monitoring.record("x", value)

    figures = monitoring.snapshot()["metrics"]["x"]
    assert (figures["count"], figures["min"], figures["max"]) == (10, 7.0, 9.0)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=50))
def test_percentiles_lie_in_order_between_the_least_and_the_greatest(values: list[float]) -> None:
    monitoring = Monitoring()
    for value in values:
        monitoring.record("x", value)

    figures = monitoring.snapshot()["metrics"]["x"]
    assert figures["min"] <= figures["p50"] <= figures["p95"] <= figures["max"]


async def test_get_metrics_is_json_with_events_counted_and_the_time_since_the_start(
    collected: Collected,
) -> None:
    for _ in range(3):
        collected.monitoring.emit("handover")
    collected.monitoring.record("x", 1)

    shown = json.loads(json.dumps(await collected.monitoring.get_metrics()))
    assert shown["events"] == {"handover": 3}
    assert shown["uptime_seconds"] > 0
    assert shown["metrics"]["x"]["count"] == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(collected: Collected, value: float) -> None:
    with pytest.raises(ValueError, match=r'metric "loss": a value is a finite number, not -?(nan|inf)'):
        collected.monitoring.record("loss", value)


@pytest.mark.parametrize("value", ["0.5", True, None, [1.0]])
def test_a_value_that_is_no_number_is_refused(collected: Collected, value: Any) -> None:
    with pytest.raises(TypeError, match='metric "loss": a value is a number, not '):
        collected.monitoring.record("loss", value)


@pytest.mark.parametrize("name", ["", "2fast", "two words", "é", "x" * 256])
def test_a_name_that_opentelemetry_does_not_take_is_refused(collected: Collected, name: str) -> None:
    with pytest.raises(ValueError, match="a name begins with a letter"):
        collected.monitoring.record(name, 1.0)


def test_a_refused_value_leaves_no_metric_behind(collected: Collected) -> None:
    with pytest.raises(TypeError):
        collected.monitoring.record("x", 1.0, {"a": object()})  # type: ignore[dict-item]

    assert collected.monitoring.snapshot()["metrics"] == {}


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"at": object()}, 'event "e": attribute "at" is a object, which JSON cannot say'),
        ({"deep": {"x": [math.nan]}}, r'attribute "deep".x\[0\] is nan'),
        ({"text": "x" * 20_000}, "has 20000 characters; at most 16384"),
        ({"big": 2**63}, "does not fit into 64 bits"),
        ({f"a{i}": i for i in range(65)}, "65 attributes; at most 64"),
        ({"": 1}, "an attribute's name is a text of 1 to 255 characters"),
        (["a"], "attributes are a dictionary, not list"),
    ],
)
def test_an_event_that_no_exporter_could_carry_is_refused(
    collected: Collected, attributes: Any, said: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        collected.monitoring.emit("e", attributes)


def test_an_event_nested_without_end_is_refused(collected: Collected) -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless

    with pytest.raises(ValueError, match="nested more than 8 deep"):
        collected.monitoring.emit("e", endless)


def test_what_is_changed_after_an_event_is_not_changed_in_it(collected: Collected) -> None:
    path = ["a"]
    collected.monitoring.emit("e", {"path": path})
    path.append("b")

    (log,) = collected.logs.get_finished_logs()
    assert (log.log_record.attributes or {})["path"] == ("a",)


def test_more_names_than_allowed_are_refused_with_what_to_do(collected: Collected) -> None:
    monitoring = Monitoring(max_names=2)
    for name in ("a", "b"):
        monitoring.record(name, 1)

    with pytest.raises(ValueError, match='metric "c": there are 2 names of metrics already'):
        monitoring.record("c", 1)


def test_attribute_sets_beyond_the_bound_are_exported_together_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    collected = Collected(max_series=2)
    with caplog.at_level(logging.WARNING):
        for number in range(10):
            collected.monitoring.record("x", number, {"user": f"u{number}"})

    series = [dict(point.attributes) for point in collected.points("x")]
    assert sorted(map(str, series)) == ["{'otel.metric.overflow': True}", "{'user': 'u0'}", "{'user': 'u1'}"]
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        'metric "x" has 2 different sets of attributes'
    ]


def test_a_metric_keeps_the_kind_of_its_first_value(collected: Collected) -> None:
    collected.monitoring.record("x", 1.0)

    with pytest.raises(ValueError, match='metric "x" is a gauge since its first value, not a histogram'):
        collected.monitoring.record("x", 1.0, kind="histogram")


def test_a_histogram_refuses_a_negative_value(collected: Collected) -> None:
    with pytest.raises(ValueError, match='metric "x" is a histogram, which takes no negative value'):
        collected.monitoring.record("x", -1.0, kind="histogram")


def test_no_value_is_lost_between_threads(collected: Collected) -> None:
    def work() -> None:
        for value in range(500):
            collected.monitoring.record("x", value)
            collected.monitoring.emit("e")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    shown = collected.monitoring.snapshot()
    assert (shown["metrics"]["x"]["count"], shown["events"]["e"]) == (2000, 2000)


STEP = {
    "step": 9,
    "time": 1795374831.3,
    "loss": 0.5,
    "reward": 0.64,
    "reward_std": 0.07,
    "entropy": 1.2,
    "grad_norm": 0.3,
    "learning_rate": 6e-5,
    "rewards/empathy/mean": 0.44,
    "seconds/rollouts": 12.8,
    "completions/mean_length": math.nan,
}


def test_a_training_step_is_recorded_under_the_names_of_the_field(collected: Collected) -> None:
    registry = load_plugins(disable=True)
    registry.register(StepMetrics(collected.monitoring), "monitoring")

    registry.notify_step(9, STEP)

    shown = collected.monitoring.snapshot()["metrics"]
    assert {name: figures["last"] for name, figures in shown.items()} == {
        "rl.step": 9,
        "rl.policy.loss": 0.5,
        "rl.reward.mean": 0.64,
        "rl.reward.std": 0.07,
        "rl.entropy": 1.2,
        "rl.grad_norm": 0.3,
        "rl.learning_rate": 6e-5,
        "rl.rewards.empathy.mean": 0.44,
        "rl.seconds.rollouts": 12.8,
    }


def test_any_name_of_a_reward_becomes_the_name_of_a_metric(collected: Collected) -> None:
    collected.monitoring.record(metric_name("rewards/my reward (v2)/mean"), 1.0)

    assert list(collected.monitoring.snapshot()["metrics"]) == ["rl.rewards.my_reward__v2_.mean"]


@pytest.mark.model
@pytest.mark.slow
async def test_the_trainer_still_reports_under_the_names_that_are_recorded(tiny_model_path: Path) -> None:
    from grpo_host.assembly.from_python.environments import PromptEnvironment, prompt_task
    from grpo_host.assembly.from_python.rewards import as_rewards
    from grpo_host.backends.local_model import LocalModel
    from grpo_host.chat.agent import ChatAgent
    from grpo_host.config.schema import TrainingConfig
    from grpo_host.rollouts.engine import RolloutEngine
    from grpo_host.rollouts.scoring import RewardSet
    from grpo_host.training.trl.online import OnlineTrainer

    class OneAnswer:
        def reset(self) -> dict[str, Any]:
            return {}

        def step(self, action: str) -> dict[str, Any]:
            return {"done": True}

    async def step() -> dict[str, float]:
        model = LocalModel(str(tiny_model_path), backend="transformers")
        chat = ChatAgent(model, sampling=Sampling(max_tokens=8, temperature=1.0))
        rewards = RewardSet(as_rewards(lambda trajectory: len(trajectory.policy_text) % 7 / 7))
        engine = RolloutEngine(
            await chat.ready(), lambda: PromptEnvironment(OneAnswer()), rewards, environment_name="prompts"
        )
        trainer = OnlineTrainer(engine, TrainingConfig(group_size=4, beta=0.04))
        try:
            return (await trainer.step([prompt_task("Hello", "hello")])).metrics
        finally:
            await trainer.close()
            await chat.close()

    reported = await step()

    assert [name for name in NAMES if name not in reported] == []

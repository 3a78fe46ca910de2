"""A training step as spans, and its line of metrics.jsonl as gauges, in the names of NeMo RL.

Each step is a trace of its own: one trace for a whole run could not be read. Numbers are metrics,
never attributes of spans.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import metadata
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from grpo_host.telemetry import providers
from grpo_host.telemetry.http import current_span
from grpo_host.telemetry.monitoring import Monitoring
from grpo_host.telemetry.training import StepMetrics
from grpo_host.training.trl.steps import finished_steps, step_under_way

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Link, Span, TracerProvider

    from grpo_host.training.trl.rollouts import GrpoRollouts
    from grpo_host.training.trl.trainer import HostGRPOTrainer

SCOPE = "grpo_host.training"
Show = Callable[[int, Mapping[str, Any]], None]

_BUCKETS = {"generation": "productive", "checkpointing": "overhead"}
"""Groups are scored while others are still sampled: that takes no time of its own from the step."""


def training_telemetry(group_size: int) -> TrainingTelemetry | None:
    """None if neither spans nor metrics go anywhere: training is then not watched at all."""
    return TrainingTelemetry(group_size) if providers.wanted() else None


class TrainingTelemetry(TrainerCallback):  # type: ignore[misc]
    """Watches one trainer: put it before the trainer's other callbacks."""

    def __init__(
        self,
        group_size: int,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> None:
        self._tracer = (tracer_provider or providers.tracer_provider()).get_tracer(
            SCOPE, metadata.version("grpo-agent-framework")
        )
        self._gauges = StepMetrics(Monitoring(meter_provider=meter_provider, logger_provider=logger_provider))
        self._group_size = group_size
        self._links = _caller()
        self._step: Span | None = None
        self._updating: Span | None = None

    @contextmanager
    def watching(self, trainer: HostGRPOTrainer, rollouts: GrpoRollouts) -> Iterator[None]:
        """While inside, what ``trainer`` does is watched; ``rollouts`` is what it samples with."""

        @contextmanager
        def generation() -> Iterator[None]:
            with self._phase("generation") as span:
                yield
                span.set_attribute("rl.weight_version", rollouts.policy.version)
            self._updating = self._tracer.start_span(
                "rl.grpo.policy_training", context=self._context, attributes={"rl.bucket": "productive"}
            )

        trainer.phase = lambda name: generation() if name == "generation" else self._phase(name)
        rollouts.engine.phase = self._phase
        try:
            yield
        finally:
            rollouts.engine.phase = nullcontext
            self._end()

    def show(self, then: Show) -> Show:
        """``then``, after the line has been recorded as gauges."""

        def shown(step: int, line: Mapping[str, Any]) -> None:
            self._gauges.grpo_step_finished(step, line)
            then(step, line)

        return shown

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from opentelemetry.context import Context

        if finished_steps(args, state) is None:
            return
        self._end()
        self._step = self._tracer.start_span(
            "rl.grpo.step",
            context=Context(),
            attributes={
                "rl.step": step_under_way(args, state),
                "rl.num_generations_per_prompt": self._group_size,
            },
            links=self._links,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._updating is not None and finished_steps(args, state) is not None:
            self._updating.end()
            self._updating = None

    def _phase(self, name: str) -> AbstractContextManager[Span]:
        bucket = _BUCKETS.get(name)
        attributes = {"rl.bucket": bucket} if bucket else None
        return current_span(self._tracer, f"rl.grpo.{name}", context=self._context, attributes=attributes)

    @property
    def _context(self) -> Context:
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        return set_span_in_context(self._step, Context()) if self._step is not None else Context()

    def _end(self) -> None:
        for span in (self._updating, self._step):
            if span is not None:
                span.end()
        self._updating = self._step = None


def _caller() -> list[Link]:
    """The span in which this run was asked for: active here, or named by TRACEPARENT, as CI systems do."""
    from opentelemetry import propagate, trace

    span = trace.get_current_span()
    if not span.get_span_context().is_valid:
        names = ("traceparent", "tracestate")
        carrier = {name: value for name in names if (value := os.environ.get(name.upper()))}
        span = trace.get_current_span(propagate.extract(carrier))
    return [trace.Link(span.get_span_context())] if span.get_span_context().is_valid else []

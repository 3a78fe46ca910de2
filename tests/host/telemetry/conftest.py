"""Telemetry that ends in memory, and traces as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Collected:
    """Providers whose data end in memory."""

    def __init__(self) -> None:
        self.exporter, self.reader, self.logs = (
            InMemorySpanExporter(),
            InMemoryMetricReader(),
            InMemoryLogRecordExporter(),
        )
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.events = LoggerProvider(shutdown_on_exit=False)
        self.events.add_log_record_processor(SimpleLogRecordProcessor(self.logs))

    @property
    def providers(self) -> dict[str, Any]:
        return {
            "tracer_provider": self.tracers,
            "meter_provider": self.meters,
            "logger_provider": self.events,
        }

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """Finished spans in the order in which they began."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def span(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def tree(self, *attributes: str) -> str:
        """All traces: a line a span, its children indented below it, with those of its attributes."""
        return "\n".join(_lines(self.spans, None, "", attributes))

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        metrics = (
            [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        )
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


def _lines(
    spans: Sequence[ReadableSpan], parent: int | None, indent: str, attributes: Sequence[str]
) -> Iterable[str]:
    known = {span.context.span_id for span in spans if span.context}
    for span in spans:
        above = span.parent.span_id if span.parent and span.parent.span_id in known else None
        if above != parent:
            continue
        shown = [f"{key}={span.attributes[key]}" for key in attributes if key in (span.attributes or {})]
        yield " ".join([indent + span.name, *shown])
        assert span.context is not None
        yield from _lines(spans, span.context.span_id, indent + "  ", attributes)


@pytest.fixture
def telemetry() -> Collected:
    return Collected()

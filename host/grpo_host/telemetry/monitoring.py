"""Take an application's metrics and events, for OpenTelemetry and to look at in the process.

A metric is a gauge: OpenTelemetry is given the last value of each set of attributes. A distribution
of times or sizes is better exported as a histogram, which a first ``kind="histogram"`` makes of it;
that is not the default because OpenTelemetry's histograms refuse negative values (a loss, a reward).
An event is a log record with an event name.

``get_metrics`` answers from the process's own memory, which is bounded: the last ``window`` values of
each metric, and at most ``max_names`` names.
"""

from __future__ import annotations

import math
import re
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, TypeAlias

from opentelemetry._logs import SeverityNumber

from grpo_host.telemetry import providers
from grpo_host.telemetry.attributes import Attribute, Series, event_attributes, metric_attributes

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider

Kind: TypeAlias = Literal["gauge", "histogram"]

SCOPE = "grpo_agent_framework"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,254}")
"""What OpenTelemetry allows as the name of an instrument."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of a histogram's buckets: those of durations; a View of the application's replaces them."""


@dataclass
class _Metric:
    kind: Kind
    send: Callable[[float, Mapping[str, Attribute]], None]
    values: deque[float]
    series: Series
    count: int = 0


class Monitoring:
    """Takes metrics and events from any thread and sends them on.

    ``grpo_host.telemetry.providers`` says where the data go without ``meter_provider`` and
    ``logger_provider``.
    """

    def __init__(
        self,
        *,
        window: int = 1000,
        max_names: int = 500,
        max_series: int = 100,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> None:
        for name, value in (("window", window), ("max_names", max_names), ("max_series", max_series)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        self._window, self._max_names, self._max_series = window, max_names, max_series
        version = metadata.version("grpo-agent-framework")
        self._meter = (meter_provider or providers.meter_provider()).get_meter(SCOPE, version)
        self._logger = (logger_provider or providers.logger_provider()).get_logger(SCOPE, version)
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._metrics: dict[str, _Metric] = {}
        self._events: dict[str, int] = {}

    def record(
        self,
        name: str,
        value: float,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        kind: Kind | None = None,
    ) -> None:
        """Take one value of the metric ``name``; its first value says whether it is a gauge.

        Raises ``TypeError`` or ``ValueError`` for what is no finite number, no name or no attribute,
        for a kind other than the metric's, and for more names than ``max_names``. Attribute sets
        beyond ``max_series`` are exported together, as ``otel.metric.overflow``, with one warning.
        """
        number = _finite(name, value)
        with self._lock:
            metric = self._metrics.get(name)
            if metric is None:
                metric = self._new_metric(name, kind or "gauge")
            if kind not in (None, metric.kind):
                raise ValueError(f'metric "{name}" is a {metric.kind} since its first value, not a {kind}')
            if metric.kind == "histogram" and number < 0:
                raise ValueError(f'metric "{name}" is a histogram, which takes no negative value: {number}')
            labels = metric.series.admit(metric_attributes(name, attributes))
            self._metrics[name] = metric  # only now: an invalid first call leaves nothing behind
            metric.values.append(number)
            metric.count += 1
        metric.send(number, labels)

    def emit(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Send an event. Raises as ``record`` does; attributes may be nested as JSON is."""
        _checked_name("event", name)
        checked = event_attributes(name, attributes)
        with self._lock:
            self._refuse_too_many("event", name, self._events)
            self._events[name] = self._events.get(name, 0) + 1
        self._logger.emit(
            event_name=name, timestamp=time.time_ns(), severity_number=SeverityNumber.INFO, attributes=checked
        )

    async def log_metric(
        self,
        name: str,
        value: float,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        kind: Kind | None = None,
    ) -> None:
        """``record`` as a coroutine; it does not wait for an exporter."""
        self.record(name, value, attributes, kind=kind)

    async def log_event(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """``emit`` as a coroutine."""
        self.emit(name, attributes)

    async def get_metrics(self) -> dict[str, Any]:
        """``snapshot`` as a coroutine."""
        return self.snapshot()

    def snapshot(self) -> dict[str, Any]:
        """``uptime_seconds``, ``metrics`` and ``events`` (how many of each), ready for JSON.

        Of each metric: ``count`` since the start, and ``last``, ``mean``, ``min``, ``max``, ``p50``
        and ``p95`` of the last ``window`` values, whatever their attributes.
        """
        with self._lock:
            held = {name: (metric.count, list(metric.values)) for name, metric in self._metrics.items()}
            events = dict(self._events)
        return {
            "uptime_seconds": time.monotonic() - self._started,
            "metrics": {name: _summary(count, values) for name, (count, values) in held.items()},
            "events": events,
        }

    def _new_metric(self, name: str, kind: Kind) -> _Metric:
        _checked_name("metric", name)
        self._refuse_too_many("metric", name, self._metrics)
        if kind not in ("gauge", "histogram"):
            raise ValueError(f'metric "{name}": a kind is "gauge" or "histogram", not {kind!r}')
        send = (
            self._meter.create_gauge(name).set
            if kind == "gauge"
            else self._meter.create_histogram(name, explicit_bucket_boundaries_advisory=SECONDS).record
        )
        return _Metric(kind, send, deque(maxlen=self._window), Series(name, self._max_series))

    def _refuse_too_many(self, what: str, name: str, known: Mapping[str, object]) -> None:
        if name not in known and len(known) >= self._max_names:
            raise ValueError(
                f'{what} "{name}": there are {self._max_names} names of {what}s already. What varies '
                "belongs into an attribute, not into the name; or raise max_names"
            )


def _checked_name(what: str, name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of a {what} is a text, not {type(name).__name__}")
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{what} {name!r}: a name begins with a letter and goes on with at most 254 letters, "
            "digits and any of _ . - / (OpenTelemetry's rule)"
        )


def _finite(name: object, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise TypeError(f'metric "{name}": a value is a number, not {type(value).__name__}')
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f'metric "{name}": a value is a finite number, not {number}')
    return number


def _summary(count: int, values: list[float]) -> dict[str, float | int]:
    # Of a single value there are no quantiles to compute; it is all of them.
    percentiles = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
    return {
        "count": count,
        "last": values[-1],
        "mean": statistics.fmean(values),
        "min": min(values),
        "max": max(values),
        "p50": percentiles[49],
        "p95": percentiles[94],
    }

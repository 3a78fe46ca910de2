"""Where telemetry goes: the application's OpenTelemetry providers, or what the environment asks for.

An application that has set a global provider, by itself or through ``opentelemetry-instrument``, gets
the data. Otherwise the standard variables are honoured: ``OTEL_TRACES_EXPORTER``,
``OTEL_METRICS_EXPORTER`` and ``OTEL_LOGS_EXPORTER`` name exporters (``otlp``, ``console``,
``prometheus``, ``none``), and an ``OTEL_EXPORTER_OTLP_ENDPOINT`` alone means ``otlp``. Without either
nothing is exported, nothing is printed and no port is opened; a provider that is set later still gets
what is recorded then.

The providers made here are this process's own and never become the global ones: that is the
application's to decide.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import TracerProvider

logger = logging.getLogger("grpo_host.telemetry")

SERVICE = "grpo-host"
"""``service.name``, if neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES gives one."""

_API = ("opentelemetry.trace", "opentelemetry.metrics.", "opentelemetry._logs.")

_read: list[MeterProvider] = []
"""The provider that ``readable_meter_provider`` had to make."""


def tracer_provider() -> TracerProvider:
    """The application's, the environment's, or one that waits for the application's."""
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    return (_tracer_provider_of_environment() or provider) if _waits(provider) else provider


def meter_provider() -> MeterProvider:
    """As ``tracer_provider``, for metrics."""
    from opentelemetry import metrics

    provider = metrics.get_meter_provider()
    if not _waits(provider):
        return provider
    return _meter_provider_of_environment() or (_read[0] if _read else provider)


def logger_provider() -> LoggerProvider:
    """As ``tracer_provider``, for events."""
    from opentelemetry import _logs

    provider = _logs.get_logger_provider()
    return (_logger_provider_of_environment() or provider) if _waits(provider) else provider


def wanted() -> bool:
    """Whether spans or metrics go anywhere, as far as can be told now."""
    return not (_waits(tracer_provider()) and _waits(meter_provider()))


def nobody_traces(tracers: TracerProvider) -> bool:
    """Whether ``tracers`` waits for the application's provider, and it has set none so far."""
    from opentelemetry import trace

    return _waits(tracers) and _waits(trace.get_tracer_provider())


def _waits(provider: object) -> bool:
    """Whether it is the proxy that the API returns until an application sets a provider."""
    kind = type(provider)
    return kind.__module__.startswith(_API) and "Proxy" in kind.__name__


def readable_meter_provider() -> MeterProvider:
    """As ``meter_provider``, but with metrics that can be read here too, if possible.

    One made here exports nothing by itself, and is this process's from then on.
    """
    provider = meter_provider()
    if not _waits(provider):
        return provider
    from opentelemetry.sdk.metrics import MeterProvider

    _read.append(MeterProvider(resource=resource()))
    return _read[0]


def flush(seconds: float, *of: object) -> None:
    """Send what is waiting in these providers, each in about ``seconds``."""
    for provider in of:
        send = getattr(provider, "force_flush", None)
        if send is None:
            continue
        try:
            send(timeout_millis=int(seconds * 1000))
        except Exception as problem:  # an exporter's: a collector may be gone before us
            logger.warning("telemetry was not sent: %s: %s", type(problem).__name__, problem)


def resource() -> Resource:
    """The description of this process: the environment's, with our name if it gives none."""
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource

    described = Resource.create()
    if not str(described.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return described
    ours = {SERVICE_NAME: SERVICE, SERVICE_VERSION: version("grpo-agent-framework")}
    return described.merge(Resource(ours))


@cache
def _tracer_provider_of_environment() -> TracerProvider | None:
    exporters = _exporters("traces")
    if not exporters:
        return None
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from grpo_host.telemetry.ids import SystemIds

    provider = TracerProvider(resource=resource(), id_generator=SystemIds())
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


@cache
def _meter_provider_of_environment() -> MeterProvider | None:
    exporters = _exporters("metrics")
    if not exporters:
        return None
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

    # An exporter that is asked, like Prometheus's, is a reader itself.
    readers = [e if isinstance(e, MetricReader) else PeriodicExportingMetricReader(e) for e in exporters]
    return MeterProvider(metric_readers=readers, resource=resource())


@cache
def _logger_provider_of_environment() -> LoggerProvider | None:
    exporters = _exporters("logs")
    if not exporters:
        return None
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider(resource=resource())
    for exporter in exporters:
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    return provider


def _exporters(signal: str) -> list[Any]:
    """The exporters that the environment names for ``signal``.

    An exporter that is not available is a warning: a variable that a cluster sets for all its pods must
    not end a program.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    names = os.environ.get(variable, "") or ("otlp" if _has_otlp_endpoint(signal) else "none")
    made = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name.lower() == "none":
            continue
        try:
            made.append(_exporter_class(signal, name)())
        except Exception as problem:  # an exporter's constructor opens ports and reads files
            logger.warning(
                "%s are not exported to %s: %s: %s. Mend that, or set %s=none",
                signal,
                name,
                type(problem).__name__,
                problem,
                variable,
            )
    return made


def _has_otlp_endpoint(signal: str) -> bool:
    general, own = "OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    return bool(os.environ.get(general) or os.environ.get(own))


def _exporter_class(signal: str, name: str) -> Callable[[], Any]:
    """The exporter called ``name``; ``otlp`` is one of two, by the protocol that is asked for."""
    package = name
    if name == "otlp":
        protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        name = "otlp_proto_grpc" if protocol.strip() == "grpc" else "otlp_proto_http"
        package = name.replace("_", "-")
    for entry in entry_points(group=f"opentelemetry_{signal}_exporter", name=name):
        return cast("Callable[[], Any]", entry.load())
    raise LookupError(
        f"no installed package offers this exporter; run: pip install opentelemetry-exporter-{package}"
    )

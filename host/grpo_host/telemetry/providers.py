"""Where telemetry goes: the application's OpenTelemetry providers, or what the environment asks for.

An application that has set a global provider, by itself or through ``opentelemetry-instrument``, gets
the data. Otherwise the standard variables are honoured: ``OTEL_METRICS_EXPORTER`` and
``OTEL_LOGS_EXPORTER`` name exporters (``otlp``, ``console``, ``prometheus``, ``none``), and an
``OTEL_EXPORTER_OTLP_ENDPOINT`` alone means ``otlp``. Without either nothing is exported, nothing is
printed and no port is opened; a provider that is set later still gets what is recorded then.

The providers made here are this process's own and never become the global ones: that is the
application's to decide.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider

logger = logging.getLogger("grpo_host.telemetry")


def meter_provider() -> MeterProvider:
    """The application's, the environment's, or one that waits for the application's."""
    from opentelemetry import metrics

    provider = metrics.get_meter_provider()
    # The API hands out a proxy of its own until an application sets a provider.
    if type(provider).__module__.startswith("opentelemetry.metrics."):
        return _meter_provider_of_environment() or provider
    return provider


def logger_provider() -> LoggerProvider:
    """As ``meter_provider``, for events."""
    from opentelemetry import _logs

    provider = _logs.get_logger_provider()
    if type(provider).__module__.startswith("opentelemetry._logs."):
        return _logger_provider_of_environment() or provider
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
    return MeterProvider(metric_readers=readers)


@cache
def _logger_provider_of_environment() -> LoggerProvider | None:
    exporters = _exporters("logs")
    if not exporters:
        return None
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider()
    for exporter in exporters:
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    return provider


def _exporters(signal: str) -> list[Any]:
    """The exporters that the environment names for ``signal``.

    One that cannot be had is a warning: a variable that a cluster sets for all its pods must not
    end a program.
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

"""The telemetry of a server: a span per request and per WebSocket message, and its metrics as text.

The context of a trace is taken from a request's headers, or from a message's ``traceparent``, and
goes on to the servers that a backend calls, even if this process exports no spans itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from weakref import WeakKeyDictionary

from grpo_host.telemetry import providers
from grpo_host.telemetry.agents import AgentInstruments
from grpo_host.telemetry.http import App, WatchedApp, current_span
from grpo_host.telemetry.monitoring import Monitoring

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import CallbackOptions, MeterProvider
    from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.trace import Span, TracerProvider
    from prometheus_client import CollectorRegistry

logger = logging.getLogger("grpo_host.telemetry")

SCOPE = "grpo_host.server"
_CARRIED = ("traceparent", "tracestate", "baggage")


Totals: TypeAlias = Callable[[], Mapping[str, Any]]

_OWNERS: WeakKeyDictionary[MeterProvider, list[Totals]] = WeakKeyDictionary()


def _show_owners(meters: MeterProvider) -> list[Totals]:
    """What is counted in the metrics of owners: of all servers with this provider, which asks only the
    first observer of a name."""
    if (known := _OWNERS.get(meters)) is not None:
        return known
    from opentelemetry.metrics import Observation

    shown = _OWNERS[meters] = []

    def each() -> Iterator[tuple[str, Any]]:
        for totals in list(shown):  # other threads ask
            yield from list(totals().items())

    def requests(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(used.requests, {"grpo.owner": owner}) for owner, used in each()]

    def tokens(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count, {"grpo.owner": owner, "gen_ai.token.type": kind})
            for owner, used in each()
            for kind, count in (("input", used.input_tokens), ("output", used.output_tokens))
        ]

    meter = meters.get_meter(SCOPE)
    meter.create_observable_counter(
        "grpo.owner.requests", [requests], unit="{request}", description="Answers that an owner asked for."
    )
    meter.create_observable_counter(
        "grpo.owner.tokens",
        [tokens],
        unit="{token}",
        description="Tokens that models read and wrote for an owner.",
    )
    return shown


class ServerTelemetry:
    """All telemetry of one server process. Make one per process, before its app serves."""

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> None:
        self._registry: CollectorRegistry | None = None
        self._reader: MetricReader | None = None
        self._totals: Totals | None = None
        self._tracers = tracer_provider or providers.tracer_provider()
        self._meters = meter_provider or providers.readable_meter_provider()
        self._logs = logs = logger_provider or providers.logger_provider()
        self._tracer = self._tracers.get_tracer(SCOPE)
        self.monitoring = Monitoring(meter_provider=self._meters, logger_provider=logs)
        """For metrics and events of the server's own."""
        self.instruments = AgentInstruments(
            tracer_provider=self._tracers, meter_provider=self._meters, logger_provider=logs
        )
        """For ``Agent.instruments``, and for model calls without an agent."""

    def start(self) -> None:
        """Begin to keep metrics for ``metrics``, in a registry of its own."""
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from opentelemetry.sdk.metrics import MeterProvider
        from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

        registry = self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        if isinstance(self._meters, MeterProvider):
            self._reader = PrometheusMetricReader(registry=registry, scope_info_enabled=False)
            self._meters.add_metric_reader(self._reader)
        else:
            logger.warning(
                "the application's %s takes no reader: GET /metrics shows only the process. Let the "
                "application export its metrics itself",
                type(self._meters).__name__,
            )

    def close(self, seconds: float = 5.0) -> None:
        """Send what is waiting, in at most ``seconds``, and stop keeping metrics."""
        waiting = (seconds, self._tracers, self._meters, self._logs)
        sending = threading.Thread(target=providers.flush, args=waiting, daemon=True)
        sending.start()
        sending.join(seconds)
        if self._totals is not None:
            _show_owners(self._meters).remove(self._totals)
            self._totals = None
        reader, self._reader, self._registry = self._reader, None, None
        if reader is not None:
            cast("SdkMeterProvider", self._meters).remove_metric_reader(reader)

    def show_owners(self, totals: Totals) -> None:
        """Show in the metrics what each owner has used: ``totals`` gives it, with the attributes of a
        ``serving.access.usage.Used``."""
        self._totals = totals
        _show_owners(self._meters).append(totals)

    def app(self, inner: App) -> App:
        """``inner`` with a span and metrics for each request and each socket; see ``WatchedApp``."""
        return WatchedApp(inner, self._tracers, self._meters)

    @contextmanager
    def message(self, kind: str, carrier: Mapping[str, Any] | None = None) -> Iterator[Span]:
        """A span for one message of a socket; ``kind`` is one of few words, such as ``chat``.

        It belongs to the trace that ``carrier["traceparent"]`` names, or begins one: a trace that
        grew as long as its socket lives could not be read. The socket's span is linked.
        """
        from opentelemetry import propagate, trace
        from opentelemetry.context import Context

        texts = {k: v for k in _CARRIED if isinstance(v := (carrier or {}).get(k), str)}
        socket = trace.get_current_span().get_span_context()
        with current_span(
            self._tracer,
            f"websocket {kind}",
            context=propagate.extract(texts, context=Context()),
            kind=trace.SpanKind.SERVER,
            attributes={"grpo.websocket.message.type": kind},
            links=[trace.Link(socket)] if socket.is_valid else None,
        ) as span:
            yield span

    def metrics(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics of this process as Prometheus wants them, and their content type.

        Each of several workers has its own, and a scrape reaches any one of them.
        """
        from prometheus_client.exposition import choose_encoder

        if self._registry is None:
            raise RuntimeError("the telemetry is not running; start() it first")
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

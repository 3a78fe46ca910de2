"""What a server tells of itself: a span a request and a span a WebSocket message, and its metrics as text.

The context of a trace is taken from a request's headers, or from a message's ``traceparent``, and
goes on to the servers that a backend calls, also where this process exports no spans itself.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from grpo_host.telemetry import providers
from grpo_host.telemetry.agents import AgentInstruments, error_type
from grpo_host.telemetry.monitoring import Monitoring

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.trace import Span, TracerProvider
    from prometheus_client import CollectorRegistry

Scope: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[
    [Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]

logger = logging.getLogger("grpo_host.telemetry")

SCOPE = "grpo_host.server"
UNTRACED = ("/health", "/metrics")
"""Asked many times a minute by machines: neither they nor what is below them makes spans or metrics."""

_CARRIED = ("traceparent", "tracestate", "baggage")


class ServerTelemetry:
    """All telemetry of one server process. Make one a process, before its app serves."""

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> None:
        # Else HTTP has the names of 2022, and the query string, in every span.
        os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
        self._registry: CollectorRegistry | None = None
        self._reader: MetricReader | None = None
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
        """Send what waits to be sent, in at most ``seconds``, and keep metrics no longer."""
        waiting = (seconds, self._tracers, self._meters, self._logs)
        sending = threading.Thread(target=providers.flush, args=waiting, daemon=True)
        sending.start()
        sending.join(seconds)
        reader, self._reader, self._registry = self._reader, None, None
        if reader is not None:
            cast("SdkMeterProvider", self._meters).remove_metric_reader(reader)

    def app(self, inner: App) -> App:
        """``inner`` with a span and metrics for each request and each socket.

        They have the path template of the route that Starlette (``scope["app"]``) has for it.
        """
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        quiet: list[Literal["receive", "send"]] = ["receive", "send"]
        watched = OpenTelemetryMiddleware(
            _unwrapped(inner),
            default_span_details=_span_details,
            tracer_provider=self._tracers,
            meter_provider=self._meters,
            http_capture_headers_server_response=["x-request-id"],  # it stands in logs too
            exclude_spans=quiet,
        )

        async def app(scope: Scope, receive: Any, send: Any) -> None:
            path = scope.get("path", "")
            if scope["type"] not in ("http", "websocket") or path.startswith(UNTRACED):
                await inner(scope, receive, send)
                return
            # A query may hold anything, and what is no UTF-8 would end the request here.
            seen = {**scope, "query_string": b"", _INNER: scope}
            await watched(seen, receive, send)
            if _RAISED in seen:
                raise seen[_RAISED]

        return app

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
        with self._tracer.start_as_current_span(
            f"websocket {kind}",
            context=propagate.extract(texts, context=Context()),
            kind=trace.SpanKind.SERVER,
            attributes={"grpo.websocket.message.type": kind},
            links=[trace.Link(socket)] if socket.is_valid else None,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as problem:
                _failed(span, problem)
                raise

    def metrics(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics of this process as Prometheus wants them, and their content type.

        Of several workers each has its own, and a scrape meets any of them.
        """
        from prometheus_client.exposition import choose_encoder

        if self._registry is None:
            raise RuntimeError("the telemetry is not running; start() it first")
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


_INNER = "grpo.scope"
_RAISED = "grpo.raised"


def _unwrapped(inner: App) -> App:
    """``inner`` with the request's own scope; what it raises does not reach the instrumentation.

    That would put the text and the traceback of an exception, which may quote a message, on the span.
    """

    async def app(seen: Scope, receive: Any, send: Any) -> None:
        from opentelemetry import trace

        try:
            await inner(seen[_INNER], receive, send)
        except BaseException as problem:
            _failed(trace.get_current_span(), problem)
            if not isinstance(problem, Exception):
                raise
            seen[_RAISED] = problem

    return app


def _span_details(scope: Scope) -> tuple[str, dict[str, str]]:
    """A name of few: the method and the path template."""
    template = _route(scope[_INNER])
    method = scope.get("method", "WEBSOCKET")
    if method not in _METHODS:
        method = "HTTP"
    if template is None:
        return method, {}
    return f"{method} {template}", {"http.route": template}


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "WEBSOCKET")


def _failed(span: Span, problem: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    if not span.is_recording():  # ended with the answer 500, or not traced
        return
    kind = error_type(problem)
    span.set_attribute("error.type", kind)
    if kind != "cancelled":  # the client went away
        span.set_status(StatusCode.ERROR)


def _route(scope: Scope) -> str | None:
    """Such as ``/api/status/{job_id}``; None where nobody serves the path."""
    from starlette.routing import Match

    for route in getattr(scope.get("app"), "routes", ()):
        if route.matches(scope)[0] is not Match.NONE:
            return cast("str | None", getattr(route, "path", None))
    return None

"""Record HTTP requests and sockets as spans and metrics, by OpenTelemetry's conventions for HTTP servers.

The instrumentation of ASGI makes them. If nobody records spans, requests bypass it, and the same
duration is recorded without it: it costs as much as everything else in a short answer.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast
from weakref import WeakKeyDictionary

from grpo_host.telemetry import providers
from grpo_host.telemetry.agents import error_type
from grpo_host.utils.redaction import redact

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import Span, Tracer, TracerProvider

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

UNTRACED = ("/health", "/metrics")
"""Paths that machines poll many times a minute: neither they nor their work makes spans or metrics."""

SCOPE = "grpo_host.http"

_INNER = "grpo.scope"
_RAISED = "grpo.raised"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "WEBSOCKET")


class WatchedApp:
    """ASGI app: ``inner`` with a span and metrics for each request and each socket.

    They have the path template of the route that Starlette (``scope["app"]``) has for it.
    """

    def __init__(self, inner: App, tracers: TracerProvider, meters: MeterProvider) -> None:
        # Else HTTP has the names of 2022, and the query string, in every span.
        os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.metrics import NoOpUpDownCounter

        quiet: list[Literal["receive", "send"]] = ["receive", "send"]
        self._inner = inner
        self._tracers = tracers
        self._watched = watched = OpenTelemetryMiddleware(
            _unwrapped(inner),
            default_span_details=_span_details,
            tracer_provider=tracers,
            meter_provider=meters,
            http_capture_headers_server_response=["x-request-id"],  # it stands in logs too
            exclude_spans=quiet,
        )
        # It keeps the size of an answer in one place, which concurrent requests overwrite.
        watched.server_response_body_size_histogram = watched.server_request_body_size_histogram = None
        # Counted here instead, and read when somebody asks.
        watched.active_requests_counter = NoOpUpDownCounter("http.server.active_requests")
        self._active = _active_requests(meters)
        # None if the application asked for the names of 2022 as well.
        self._duration = watched.duration_histogram_new if watched.duration_histogram_old is None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope.get("path", "").startswith(UNTRACED):
            await self._inner(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._traced(scope, receive, send)
            return
        active = _method(scope), scope.get("scheme", "http")
        self._active[active] += 1
        try:
            if self._duration is not None and providers.nobody_traces(self._tracers):
                await self._timed(self._duration, scope, receive, send)
            else:
                await self._traced(scope, receive, send)
        finally:
            self._active[active] -= 1

    async def _traced(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A query may hold anything, and what is no UTF-8 would end the request here.
        path = redact(scope.get("path", ""))
        seen = {
            **scope,
            "path": path,
            "raw_path": path.encode("utf-8", "replace"),
            "query_string": b"",
            _INNER: scope,
        }
        await self._watched(seen, receive, send)
        if _RAISED in seen:
            raise seen[_RAISED]

    async def _timed(self, duration: Histogram, scope: Scope, receive: Receive, send: Send) -> None:
        """Continue the caller's trace, and record the duration as the instrumentation does."""
        from opentelemetry import context, propagate
        from opentelemetry.instrumentation.asgi import asgi_getter

        getter = cast("Getter[Scope]", asgi_getter)  # it is untyped
        attributes: dict[str, str | int] = {
            "url.scheme": scope.get("scheme", "http"),
            "http.request.method": _method(scope),
        }
        if version := scope.get("http_version"):
            attributes["network.protocol.version"] = version

        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                status = attributes["http.response.status_code"] = int(message["status"])
                if status >= 500:
                    attributes["error.type"] = str(status)
            await send(message)

        began = time.perf_counter()
        token = context.attach(propagate.extract(scope, getter=getter))
        try:
            await self._inner(scope, receive, noting)
        finally:
            context.detach(token)
            if (template := _route(scope)) is not None:
                attributes["http.route"] = template
            duration.record(time.perf_counter() - began, attributes)


_ACTIVE: WeakKeyDictionary[MeterProvider, Counter[tuple[str, str]]] = WeakKeyDictionary()


def _active_requests(meters: MeterProvider) -> Counter[tuple[str, str]]:
    """The requests under way by method and scheme; ``meters`` observes them.

    All apps with the same provider count in one: it asks only the first observer of a name.
    """
    from opentelemetry.metrics import Observation

    if (known := _ACTIVE.get(meters)) is not None:
        return known
    active = _ACTIVE[meters] = Counter[tuple[str, str]]()

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count, {"http.request.method": method, "url.scheme": scheme})
            for (method, scheme), count in list(active.items())  # other threads ask
        ]

    meters.get_meter(SCOPE).create_observable_up_down_counter(
        "http.server.active_requests",
        [observe],
        unit="{request}",
        description="Number of active HTTP server requests.",
    )
    return active


def _method(scope: Scope) -> str:
    method = scope["method"]
    return method if method in _METHODS else "_OTHER"


def _unwrapped(inner: App) -> App:
    """``inner`` with the request's own scope; what it raises does not reach the instrumentation.

    That would put the text and the traceback of an exception, which may quote a message, on the span.
    """

    async def app(seen: Scope, receive: Any, send: Any) -> None:
        from opentelemetry import trace

        async def noting(message: Any) -> None:
            key = seen[_INNER].get("grpo_key") if message["type"].endswith(".start") else None
            if key is not None:  # as serving.auth leaves it; the span ends with the answer's last piece
                trace.get_current_span().set_attribute("grpo.owner", key.owner)
            await send(message)

        try:
            await inner(seen[_INNER], receive, noting)
        except BaseException as problem:
            failed(trace.get_current_span(), problem)
            if not isinstance(problem, Exception):
                raise
            seen[_RAISED] = problem

    return app


def _span_details(scope: Scope) -> tuple[str, dict[str, str]]:
    """A name from a small set: the method and the path template."""
    template = _route(scope[_INNER])
    method = scope.get("method", "WEBSOCKET")
    if method not in _METHODS:
        method = "HTTP"
    if template is None:
        return method, {}
    return f"{method} {template}", {"http.route": template}


@contextmanager
def current_span(tracer: Tracer, name: str, **options: Any) -> Iterator[Span]:
    """A span, current inside, that notes the type of what goes wrong there; the text may be private."""
    with tracer.start_as_current_span(
        name, record_exception=False, set_status_on_exception=False, **options
    ) as span:
        try:
            yield span
        except BaseException as problem:
            failed(span, problem)
            raise


def failed(span: Span, problem: BaseException) -> None:
    """Mark ``span`` with the type of ``problem``, without its text."""
    from opentelemetry.trace import StatusCode

    if not span.is_recording():  # ended with the answer 500, or not traced
        return
    kind = error_type(problem)
    span.set_attribute("error.type", kind)
    if kind != "cancelled":  # the client went away
        span.set_status(StatusCode.ERROR)


def _route(scope: Scope) -> str | None:
    """Such as ``/api/status/{job_id}``; None if nobody serves the path."""
    from starlette.routing import Match

    if (found := scope.get("route")) is not None:
        return cast("str | None", getattr(found, "path", None))
    for route in getattr(scope.get("app"), "routes", ()):
        if route.matches(scope)[0] is not Match.NONE:
            return cast("str | None", getattr(route, "path", None))
    return None

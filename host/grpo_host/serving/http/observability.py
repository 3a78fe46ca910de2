"""The server's telemetry: a span and metrics for what it is asked, and ``GET /metrics``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from grpo_host.serving.access.caller import Scope
from grpo_host.serving.access.usage import Usage
from grpo_host.serving.http.endpoint import Call, Endpoint
from grpo_host.serving.services import Part, Services
from grpo_host.telemetry.server import ServerTelemetry

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as AsgiScope

FLUSH_SECONDS = 5.0
"""How long a collector may hold the end of the server."""


class Telemetry(Part):
    """The part ``telemetry`` of ``Services``."""

    def __init__(self, server: ServerTelemetry | None = None, usage: Usage | None = None) -> None:
        self.server = server or ServerTelemetry()
        self.usage = usage
        self.instruments = self.server.instruments
        """For ``Agent.instruments``, and for model calls without an agent."""
        self.monitoring = self.server.monitoring
        """For metrics and events of the other parts."""

    async def start(self) -> None:
        self.server.start()
        if self.usage is not None:
            self.server.show_owners(lambda: self.usage.totals if self.usage is not None else {})

    async def close(self) -> None:
        await asyncio.to_thread(self.server.close, FLUSH_SECONDS)

    def message(self, kind: str, carrier: Mapping[str, Any] | None = None) -> AbstractContextManager[Span]:
        """A span for one message of a WebSocket; see ``ServerTelemetry.message``."""
        return self.server.message(kind, carrier)


class Watched:
    """ASGI middleware around all others: their refusals are answers too."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = telemetry.server.app(app)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def make_part(services: Services) -> Telemetry:
    return Telemetry(usage=services.usage)


def endpoints() -> list[Endpoint]:
    return [
        Endpoint(
            "GET",
            "/metrics",
            metrics,
            Scope.ADMIN,
            "This process's metrics, for Prometheus",
            ["observability"],
            content_type="text/plain",
            takes_slot=False,
        )
    ]


async def metrics(call: Call) -> Response:
    """Of HTTP, of agents and of the process. Each of several workers has its own."""
    telemetry: Telemetry = call.services.telemetry
    text, content_type = telemetry.server.metrics(call.request.headers.get("accept", ""))
    return Response(text, headers={"content-type": content_type})

"""``GET /api/metrics``: what this process has answered, for people and small tools."""

from __future__ import annotations

from pydantic import BaseModel

from grpo_host.serving.access.caller import Scope
from grpo_host.serving.http.endpoint import Call, Endpoint


class Requests(BaseModel):
    """HTTP requests since the process began."""

    total: int
    by_status: dict[str, int]
    """499: the client went away."""
    seconds_median: float
    """Of the last thousand, as is ``seconds_p95``."""
    seconds_p95: float
    under_way: int
    """Requests and WebSockets, now."""
    waiting: int
    """For a place, now."""


class ServerMetrics(BaseModel):
    """What this process has done. Each of several workers has its own."""

    uptime_seconds: float
    requests: Requests
    metrics: dict[str, dict[str, float]]
    """Name → count, last, mean, min, max, p50, p95: what the server's parts record."""
    events: dict[str, int]


def endpoints() -> list[Endpoint]:
    return [
        Endpoint(
            "GET",
            "/api/metrics",
            server_metrics,
            Scope.ADMIN,
            "This process's metrics, as JSON",
            ["observability"],
            response=ServerMetrics,
            takes_slot=False,
        )
    ]


async def server_metrics(call: Call) -> ServerMetrics:
    services = call.services
    recorded = services.telemetry.monitoring.snapshot() if services.telemetry else {}
    requests = Requests(
        **services.traffic.snapshot(),
        under_way=services.admission.under_way,
        waiting=services.admission.waiting,
    )
    return ServerMetrics(
        uptime_seconds=services.traffic.uptime,
        requests=requests,
        metrics=recorded.get("metrics", {}),
        events=recorded.get("events", {}),
    )

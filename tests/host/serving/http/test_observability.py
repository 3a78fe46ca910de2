"""The server's own requests as spans and metrics, and who may read them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from grpo_host.serving.access.caller import Scope
from grpo_host.serving.http import observability
from grpo_host.serving.http.endpoint import Call, Endpoint
from grpo_host.telemetry.server import ServerTelemetry


async def fail(call: Call) -> Any:
    raise ZeroDivisionError("hunter2")


ENDPOINTS = [
    *observability.endpoints(),
    Endpoint("GET", "/api/things/{thing_id}", fail, Scope.CHAT, "Fail"),
]


async def run(serving: Any, telemetry: Any, use: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    part = observability.Telemetry(ServerTelemetry(**telemetry.providers))

    async with serving(ENDPOINTS, telemetry=part, **options) as server:
        return await use(server)


async def test_a_request_is_a_span_with_its_template_its_status_and_the_id_that_the_log_has(
    serving: Any, telemetry: Any
) -> None:
    async def use(server: Any) -> Any:
        return await server.client.get("/api/things/4711?secret=hunter2", headers=await server.key("chat"))

    answer = await run(serving, telemetry, use)

    span = telemetry.span("GET /api/things/{thing_id}").attributes
    assert span["http.response.status_code"] == 500
    assert span["http.response.header.x_request_id"] == (answer.headers["x-request-id"],)
    assert "hunter2" not in repr(dict(span))


async def test_a_refusal_is_a_span_too_and_shows_no_key(serving: Any, telemetry: Any) -> None:
    async def use(server: Any) -> None:
        await server.key("chat")
        await server.client.get("/api/things/1", headers={"authorization": "Bearer grpo_x_hunter2"})

    await run(serving, telemetry, use)

    span = telemetry.span("GET /api/things/{thing_id}").attributes
    assert span["http.response.status_code"] == 401
    assert "hunter2" not in repr(dict(span))


async def test_metrics_are_for_keys_with_the_scope_admin(serving: Any, telemetry: Any) -> None:
    async def use(server: Any) -> Any:
        admin, other = await server.key("admin"), await server.key("chat", "train")
        given = [{}, other, admin]
        return [await server.client.get("/metrics", headers=headers) for headers in given]

    nobody, other, admin = await run(serving, telemetry, use)

    assert (nobody.status_code, other.status_code, admin.status_code) == (401, 403, 200)
    assert admin.headers["content-type"].startswith("text/plain; version=")


async def test_metrics_tell_of_the_requests_before(serving: Any, telemetry: Any) -> None:
    async def use(server: Any) -> str:
        headers = await server.key()
        await server.client.get("/api/things/1", headers=headers)
        answer = await server.client.get("/metrics", headers=headers)
        return str(answer.text)

    text = await run(serving, telemetry, use)

    counts = [
        line for line in text.splitlines() if line.startswith("http_server_request_duration_seconds_count")
    ]
    assert len(counts) == 1
    assert 'http_route="/api/things/{thing_id}"' in counts[0]
    assert counts[0].endswith(" 1.0")


async def test_metrics_alone_may_be_open_to_all(serving: Any, telemetry: Any) -> None:
    async def use(server: Any) -> Any:
        await server.key()
        return [(await server.client.get(path)).status_code for path in ("/metrics", "/api/things/1")]

    assert await run(serving, telemetry, use, public_metrics=True) == [200, 401]


async def test_probes_and_scrapes_are_not_traced(serving: Any, telemetry: Any) -> None:
    async def use(server: Any) -> None:
        for path in ("/health", "/health/live", "/health/ready", "/metrics"):
            await server.client.get(path)

    await run(serving, telemetry, use)

    assert telemetry.spans == []


async def test_a_server_without_configuration_has_metrics_and_ends_at_once(serving: Any) -> None:
    async def use(server: Any) -> int:
        return int((await server.client.get("/metrics", headers=await server.key())).status_code)

    async def go() -> int:
        async with serving(ENDPOINTS, telemetry=observability.Telemetry()) as server:
            return await use(server)

    assert await asyncio.wait_for(go(), 10) == 200

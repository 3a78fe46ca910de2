"""Requests and messages of a server as spans, and its metrics as text."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from grpo_host.agent import Agent
from grpo_host.telemetry.server import ServerTelemetry
from grpo_sdk import Strategy, user
from grpo_sdk.testing import ScriptedBackend

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Server:
    """A Starlette app with telemetry that ends in memory."""

    def __init__(self, telemetry: Any) -> None:
        self.telemetry = ServerTelemetry(**telemetry.providers)
        agent = Agent(
            ScriptedBackend(replies=["Hello."]),
            strategy=Strategy("sales"),
            instruments=self.telemetry.instruments,
        )

        async def chat(request: Request) -> Response:
            message = await agent.open(id="c").act([user("Hi")])
            return JSONResponse(message)

        async def status(request: Request) -> Response:
            return PlainTextResponse(request.query_params.get("key", ""))

        async def broken(request: Request) -> Response:
            raise RuntimeError("the password is hunter2")

        async def quiet(request: Request) -> Response:
            self.seen = trace.get_current_span().get_span_context()
            return PlainTextResponse("ok")

        async def socket(websocket: WebSocket) -> None:
            await websocket.accept()
            async for message in websocket.iter_json():
                with self.telemetry.message(message["type"], message):
                    answer = await agent.open(id="c").act([user("Hi")])
                    await websocket.send_json(answer)

        async def named(scope: Any, receive: Any, send: Any) -> None:
            async def with_id(message: Any) -> None:
                message.get("headers", []).append((b"x-request-id", b"r-1"))
                await send(message)

            await app(scope, receive, with_id)

        app = Starlette(
            routes=[
                Route("/api/chat", chat, methods=["POST"]),
                Route("/api/status/{job_id}", status),
                Route("/broken", broken),
                Route("/health/live", quiet),
                Route("/metrics", quiet),
                WebSocketRoute("/ws", socket),
            ]
        )
        self.telemetry.start()
        watched = self.telemetry.app(named)

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            await watched({**scope, "app": app}, receive, send)

        self.app = outer
        self.client = TestClient(self.app)  # type: ignore[arg-type]


@pytest.fixture
def server(telemetry: Any) -> Iterator[Server]:
    made = Server(telemetry)
    yield made
    made.telemetry.close()


def test_a_request_is_a_span_around_the_agents(telemetry: Any, server: Server) -> None:
    server.client.post("/api/chat")

    assert telemetry.tree(
        "http.route", "http.response.status_code", "http.response.header.x_request_id"
    ).splitlines() == [
        "POST /api/chat http.route=/api/chat http.response.status_code=200 http.response.header.x_request_id=('r-1',)",
        "  invoke_agent sales",
        "    chat scripted",
    ]


def test_the_callers_trace_goes_on(telemetry: Any, server: Server) -> None:
    server.client.post("/api/chat", headers={"traceparent": TRACEPARENT})

    assert {format(span.context.trace_id, "032x") for span in telemetry.spans} == {TRACE}
    root = telemetry.span("POST /api/chat")
    assert (root.kind, format(root.parent.span_id, "016x")) == (SpanKind.SERVER, PARENT)


def test_a_span_has_the_template_of_a_path_and_no_query(telemetry: Any, server: Server) -> None:
    answer = server.client.get("/api/status/4711", params={"key": "hunter2"})

    assert answer.text == "hunter2"
    span = telemetry.span("GET /api/status/{job_id}")
    assert "hunter2" not in span.to_json()


def test_a_query_that_is_no_text_reaches_the_app(telemetry: Any, server: Server) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/status/1",
        "query_string": b"key=\xff",
        "headers": [],
    }
    asyncio.run(server.app(scope, receive, send))

    assert sent[0]["status"] == 200


def test_no_header_stands_on_a_span(telemetry: Any, server: Server) -> None:
    server.client.post("/api/chat", headers={"authorization": "Bearer grpo_1_hunter2"})

    assert "hunter2" not in telemetry.span("POST /api/chat").to_json()


def test_a_path_or_method_that_nobody_serves_names_no_span(telemetry: Any, server: Server) -> None:
    server.client.get("/etc/passwd")
    server.client.request("BREW", "/api/chat")

    assert [span.name for span in telemetry.spans] == ["GET", "HTTP /api/chat"]


def test_an_exception_is_a_failed_span_without_its_text_and_goes_on(telemetry: Any, server: Server) -> None:
    with pytest.raises(RuntimeError, match="hunter2"):
        server.client.get("/broken")

    span = telemetry.span("GET /broken")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "500"
    assert "hunter2" not in span.to_json()


def test_an_answer_that_breaks_off_is_a_failed_span(telemetry: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("the password is hunter2")

    async def send(message: Any) -> None:
        """Nothing."""

    watched = ServerTelemetry(**telemetry.providers).app(app)
    with pytest.raises(RuntimeError):
        asyncio.run(watched({"type": "http", "method": "GET", "path": "/", "headers": []}, send, send))

    span = telemetry.span("GET")
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "RuntimeError")
    assert "hunter2" not in span.to_json()


@pytest.mark.parametrize("path", ["/health/live", "/metrics"])
def test_what_machines_ask_all_the_time_is_not_traced(telemetry: Any, server: Server, path: str) -> None:
    assert server.client.get(path).text == "ok"

    assert telemetry.spans == []
    assert not server.seen.is_valid


def test_each_message_of_a_socket_is_a_trace_of_its_own_linked_to_the_socket(
    telemetry: Any, server: Server
) -> None:
    with server.client.websocket_connect("/ws") as socket:
        for _ in range(2):
            socket.send_json({"type": "chat"})
            socket.receive_json()

    assert telemetry.tree().splitlines() == [
        "WEBSOCKET /ws",
        "websocket chat",
        "  invoke_agent sales",
        "    chat scripted",
        "websocket chat",
        "  invoke_agent sales",
        "    chat scripted",
    ]
    connection = telemetry.span("WEBSOCKET /ws").context
    messages = [span for span in telemetry.spans if span.name == "websocket chat"]
    assert len({connection.trace_id, *(span.context.trace_id for span in messages)}) == 3
    assert [span.links[0].context.span_id for span in messages] == [connection.span_id] * 2


def test_a_message_goes_on_with_the_trace_that_it_names(telemetry: Any, server: Server) -> None:
    with server.client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "chat", "traceparent": TRACEPARENT})
        socket.receive_json()

    span = telemetry.span("websocket chat")
    assert format(span.context.trace_id, "032x") == TRACE
    assert format(span.parent.span_id, "016x") == PARENT


@pytest.mark.parametrize(
    "carrier", [{"traceparent": 7}, {"traceparent": "00-0-0-0"}, {"traceparent": "x" * 9999}]
)
def test_a_message_with_a_nonsense_trace_begins_its_own(telemetry: Any, server: Server, carrier: Any) -> None:
    with server.telemetry.message("chat", carrier):
        pass

    assert telemetry.span("websocket chat").parent is None


def test_a_message_that_fails_fails_its_span(telemetry: Any, server: Server) -> None:
    with pytest.raises(KeyError), server.telemetry.message("chat"):
        raise KeyError("hunter2")

    span = telemetry.span("websocket chat")
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "KeyError")
    assert "hunter2" not in span.to_json()


def families(text: bytes) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_the_metrics_of_http_agents_and_the_server_itself_are_text_for_prometheus(server: Server) -> None:
    server.client.post("/api/chat")
    server.telemetry.monitoring.record("queue.length", 3, {"queue": "jobs"})

    text, content_type = server.telemetry.metrics()
    shown = families(text)
    assert content_type.startswith("text/plain; version=")
    (length,) = shown["queue_length"].samples
    assert (length.labels, length.value) == ({"queue": "jobs"}, 3.0)
    counts = {
        sample.labels["http_route"]: sample.value
        for sample in shown["http_server_request_duration_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert counts == {"/api/chat": 1.0}
    assert "gen_ai_client_operation_duration_seconds" in shown
    assert "process_resident_memory_bytes" in shown


def test_prometheus_gets_the_newer_format_where_it_asks_for_it(server: Server) -> None:
    text, content_type = server.telemetry.metrics("application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_each_server_has_a_registry_of_its_own(telemetry: Any, server: Server) -> None:
    before = {family.name for family in REGISTRY.collect()}
    other = ServerTelemetry(tracer_provider=telemetry.tracers)
    other.start()
    server.client.post("/api/chat")

    assert {family.name for family in REGISTRY.collect()} == before
    assert "http_server_request_duration_seconds" not in families(other.metrics()[0])
    other.close()


def test_a_server_that_has_closed_leaves_nothing_behind(telemetry: Any) -> None:
    for _ in range(3):
        server = ServerTelemetry(**telemetry.providers)
        server.start()
        server.close()

    assert list(telemetry.meters._measurement_consumer._reader_storages) == [telemetry.reader]
    with pytest.raises(RuntimeError, match="not running"):
        server.metrics()

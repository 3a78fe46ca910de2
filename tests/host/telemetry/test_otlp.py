"""Against a real OTLP/HTTP receiver: it decodes what arrives by the official opentelemetry-proto."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

pytestmark = pytest.mark.slow

CHAT = """
import asyncio
from grpo_host.agents.agent import Agent
from grpo_host.telemetry.server import ServerTelemetry
from grpo_sdk import Strategy, assistant, tool_call, user
from grpo_sdk.testing import ScriptedBackend

def order_status(order: str) -> str:
    "Where an order is."
    return f"order {order} is on its way"

telemetry = ServerTelemetry()
telemetry.start()
backend = ScriptedBackend(
    replies=[assistant("", [tool_call("order_status", '{"order": "1"}', "c1")]), "It is on its way."]
)
agent = Agent(backend, strategy=Strategy("sales"), tools=(order_status,), instruments=telemetry.instruments)
asyncio.run(agent.open(id="conversation-1").act([user("Where is my order?")]))
telemetry.monitoring.record("queue.length", 3)
telemetry.monitoring.emit("handover")
print(telemetry.metrics()[0].decode())
telemetry.close()
"""

ANSWERS: dict[str, Any] = {
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse),
    "/v1/metrics": (ExportMetricsServiceRequest, ExportMetricsServiceResponse),
    "/v1/logs": (ExportLogsServiceRequest, ExportLogsServiceResponse),
}


class Receiver(ThreadingHTTPServer):
    """Takes what a collector takes; ``received`` has the requests by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: dict[str, list[Any]] = {path: [] for path in ANSWERS}
        self.headers: list[dict[str, str]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request, response = ANSWERS[self.path]
        self.server.received[self.path].append(request.FromString(body))
        self.server.headers.append({k.lower(): v for k, v in self.headers.items()})
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()
        self.wfile.write(response().SerializeToString())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """The receiver after a process has told it of a chat."""
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = process(
            OTEL_EXPORTER_OTLP_ENDPOINT=server.endpoint,
            OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
            OTEL_EXPORTER_OTLP_HEADERS="x-tenant=acme",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        )
        server.shutdown()
        assert done.stderr == ""
        yield server


def process(**variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", CHAT],
        env=clean | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def spans(receiver: Receiver) -> list[Any]:
    return [
        span
        for request in receiver.received["/v1/traces"]
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes(of: Any) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value"))
        for item in of.attributes
        if item.value.WhichOneof("value") is not None
    }


def test_the_spans_of_a_chat_arrive_in_their_order_of_descent(receiver: Receiver) -> None:
    found = {span.name: span for span in spans(receiver)}

    root = found["invoke_agent sales"]
    assert sorted(found) == ["chat scripted", "execute_tool order_status", "invoke_agent sales"]
    assert {span.parent_span_id for name, span in found.items() if span is not root} == {root.span_id}
    assert {span.trace_id for span in spans(receiver)} == {root.trace_id}
    assert attributes(root)["gen_ai.conversation.id"] == "conversation-1"


def test_the_process_is_described_with_our_name_and_the_environments_words(receiver: Receiver) -> None:
    described = [
        attributes(resource.resource)
        for request in receiver.received["/v1/traces"]
        for resource in request.resource_spans
    ]

    assert {item["service.name"] for item in described} == {"grpo-host"}
    assert {item["deployment.environment.name"] for item in described} == {"test"}
    assert all(item["service.instance.id"] for item in described)


def test_metrics_of_agents_and_of_the_server_arrive(receiver: Receiver) -> None:
    names = {
        metric.name
        for request in receiver.received["/v1/metrics"]
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }

    assert {"gen_ai.client.operation.duration", "gen_ai.execute_tool.duration", "queue.length"} <= names


def test_events_arrive(receiver: Receiver) -> None:
    names = [
        record.event_name
        for request in receiver.received["/v1/logs"]
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]

    assert names == ["handover"]


def test_the_headers_of_the_environment_are_sent(receiver: Receiver) -> None:
    assert {headers["x-tenant"] for headers in receiver.headers} == {"acme"}


def test_nothing_that_was_said_arrives(receiver: Receiver) -> None:
    sent = b"".join(
        request.SerializeToString() for requests in receiver.received.values() for request in requests
    )

    assert b"order?" not in sent
    assert b"on its way" not in sent


def test_the_metrics_for_prometheus_are_there_beside_those_that_are_sent() -> None:
    assert "gen_ai_invoke_agent_duration_seconds_count" in process().stdout


def test_a_collector_that_is_gone_does_not_hold_the_end_of_a_server() -> None:
    started = time.monotonic()
    done = process(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="2")

    assert time.monotonic() - started < 30
    assert "queue_length 3.0" in done.stdout


AGENT = """\
name: support
model: m
backend: {name: scripted, options: {replies: ["It is on its way."]}}
environment: order_desk
rewards: [task_success]
"""
CALLER = "0af7651916cd43dd8448eb211c80319c"


def test_a_server_sends_what_it_has_before_it_ends(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(AGENT)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Receiver() as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        server = subprocess.Popen(
            [sys.executable, "-m", "grpo_host.cli", "serve", "agent.yaml", "--port", str(port)],
            cwd=tmp_path,
            env=clean | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/health/ready", server)
            answer = httpx.post(
                f"{url}/v1/chat/completions",
                json={"model": "support", "messages": [{"role": "user", "content": "Where is it?"}]},
                headers={"traceparent": f"00-{CALLER}-b7ad6b7169203331-01", "x-request-id": "request-1"},
                timeout=30,
            )
            assert answer.status_code == 200, answer.text
            server.terminate()
            _, said = server.communicate(timeout=60)
        finally:
            server.kill()
        receiver.shutdown()

    found = {span.name: span for span in spans(receiver)}
    assert sorted(found) == ["POST /v1/chat/completions", "chat m", "invoke_agent support"], said
    request, agent, chat = (
        found[name] for name in ("POST /v1/chat/completions", "invoke_agent support", "chat m")
    )
    assert agent.parent_span_id == request.span_id
    assert chat.parent_span_id == agent.span_id
    assert {span.trace_id.hex() for span in (request, agent, chat)} == {CALLER}
    assert attributes(request)["http.response.status_code"] == 200
    assert receiver.received["/v1/metrics"]


def wait_for(url: str, server: subprocess.Popen[str]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            pytest.fail(f"the server ended: {server.communicate()[1]}")
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("the server did not get ready")

"""Against a real OTLP/HTTP receiver: it decodes what arrives by the official opentelemetry-proto."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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

CHAT = """
import asyncio
from grpo_host.agent import Agent
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

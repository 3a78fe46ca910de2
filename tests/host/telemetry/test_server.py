"""The messages of a server's sockets as spans, and its metrics as text."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from grpo_host.telemetry.server import ServerTelemetry

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


def test_each_message_of_a_socket_is_a_trace_of_its_own_linked_to_the_socket(
    telemetry: Any, server: Any
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


def test_a_message_goes_on_with_the_trace_that_it_names(telemetry: Any, server: Any) -> None:
    with server.client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "chat", "traceparent": TRACEPARENT})
        socket.receive_json()

    span = telemetry.span("websocket chat")
    assert format(span.context.trace_id, "032x") == TRACE
    assert format(span.parent.span_id, "016x") == PARENT


@pytest.mark.parametrize(
    "carrier", [{"traceparent": 7}, {"traceparent": "00-0-0-0"}, {"traceparent": "x" * 9999}]
)
def test_a_message_with_a_nonsense_trace_begins_its_own(telemetry: Any, server: Any, carrier: Any) -> None:
    with server.telemetry.message("chat", carrier):
        pass

    assert telemetry.span("websocket chat").parent is None


def test_a_message_that_fails_fails_its_span(telemetry: Any, server: Any) -> None:
    with pytest.raises(KeyError), server.telemetry.message("chat"):
        raise KeyError("hunter2")

    span = telemetry.span("websocket chat")
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "KeyError")
    assert "hunter2" not in span.to_json()


def families(text: bytes) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_the_metrics_of_http_agents_and_the_server_itself_are_text_for_prometheus(server: Any) -> None:
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


def test_prometheus_gets_the_newer_format_where_it_asks_for_it(server: Any) -> None:
    text, content_type = server.telemetry.metrics("application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_each_server_has_a_registry_of_its_own(telemetry: Any, server: Any) -> None:
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

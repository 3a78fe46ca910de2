"""Requests of a server as spans and metrics, traced and not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from grpo_host.telemetry.server import ServerTelemetry

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def untraced(telemetry: Any, watched_server: Any) -> Iterator[Any]:
    """A server whose metrics are kept and whose spans nobody wants."""
    made = watched_server(meter_provider=telemetry.meters)
    yield made
    made.telemetry.close()


def test_a_request_is_a_span_around_the_agents(telemetry: Any, server: Any) -> None:
    server.client.post("/api/chat")

    assert telemetry.tree(
        "http.route", "http.response.status_code", "http.response.header.x_request_id"
    ).splitlines() == [
        "POST /api/chat http.route=/api/chat http.response.status_code=200 http.response.header.x_request_id=('r-1',)",
        "  invoke_agent sales",
        "    chat scripted",
    ]


def test_the_callers_trace_goes_on(telemetry: Any, server: Any) -> None:
    server.client.post("/api/chat", headers={"traceparent": TRACEPARENT})

    assert {format(span.context.trace_id, "032x") for span in telemetry.spans} == {TRACE}
    root = telemetry.span("POST /api/chat")
    assert (root.kind, format(root.parent.span_id, "016x")) == (SpanKind.SERVER, PARENT)


def test_a_span_has_the_template_of_a_path_and_no_query(telemetry: Any, server: Any) -> None:
    answer = server.client.get("/api/status/4711", params={"key": "hunter2"})

    assert answer.text == "hunter2"
    span = telemetry.span("GET /api/status/{job_id}")
    assert "hunter2" not in span.to_json()


def test_a_key_in_a_path_is_on_no_span(telemetry: Any, server: Any) -> None:
    key = f"grpo_{'0' * 16}_{'A' * 43}"
    server.client.get(f"/v1/{key}")

    assert telemetry.spans
    assert not any(key in span.to_json() for span in telemetry.spans)


async def test_a_query_that_is_no_text_reaches_the_app(telemetry: Any, server: Any) -> None:
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
    await server.app(scope, receive, send)

    assert sent[0]["status"] == 200


def test_no_header_stands_on_a_span(telemetry: Any, server: Any) -> None:
    server.client.post("/api/chat", headers={"authorization": "Bearer grpo_1_hunter2"})

    assert "hunter2" not in telemetry.span("POST /api/chat").to_json()


def test_a_path_or_method_that_nobody_serves_names_no_span(telemetry: Any, server: Any) -> None:
    server.client.get("/etc/passwd")
    server.client.request("BREW", "/api/chat")

    assert [span.name for span in telemetry.spans] == ["GET", "HTTP /api/chat"]


def test_an_exception_is_a_failed_span_without_its_text_and_goes_on(telemetry: Any, server: Any) -> None:
    with pytest.raises(RuntimeError, match="hunter2"):
        server.client.get("/broken")

    span = telemetry.span("GET /broken")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "500"
    assert "hunter2" not in span.to_json()


async def test_an_answer_that_breaks_off_is_a_failed_span(telemetry: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("the password is hunter2")

    async def send(message: Any) -> None:
        """Nothing."""

    watched = ServerTelemetry(**telemetry.providers).app(app)
    with pytest.raises(RuntimeError):
        await watched({"type": "http", "method": "GET", "path": "/", "headers": []}, send, send)

    span = telemetry.span("GET")
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "RuntimeError")
    assert "hunter2" not in span.to_json()


@pytest.mark.parametrize("path", ["/health/live", "/metrics"])
def test_what_machines_ask_all_the_time_is_not_traced(telemetry: Any, server: Any, path: str) -> None:
    assert server.client.get(path).text == "ok"

    assert telemetry.spans == []
    assert not server.seen.is_valid


def durations(telemetry: Any) -> list[tuple[dict[str, Any], int]]:
    points = telemetry.points("http.server.request.duration")
    return sorted(((dict(p.attributes), p.count) for p in points), key=repr)


@pytest.mark.parametrize(
    ("method", "path", "kept"),
    [
        ("POST", "/api/chat", {"http.route": "/api/chat", "http.response.status_code": 200}),
        ("GET", "/api/status/4711", {"http.route": "/api/status/{job_id}", "http.response.status_code": 200}),
        ("GET", "/etc/passwd", {"http.response.status_code": 404}),
        ("BREW", "/api/chat", {"http.route": "/api/chat", "http.response.status_code": 405}),
        (
            "GET",
            "/broken",
            {"http.route": "/broken", "http.response.status_code": 500, "error.type": "500"},
        ),
    ],
)
def test_a_requests_duration_is_the_same_series_whether_it_is_traced_or_not(
    make_telemetry: Any, watched_server: Any, method: str, path: str, kept: dict[str, Any]
) -> None:
    traced, untraced = make_telemetry(), make_telemetry()
    for providers in traced.providers, {"meter_provider": untraced.meters}:
        server = watched_server(**providers)
        with TestClient(server.app, raise_server_exceptions=False) as client:
            client.request(method, path)
        server.telemetry.close()

    ((attributes, count),) = durations(traced)
    assert durations(untraced) == [(attributes, count)]
    assert (count, kept) == (1, {name: attributes.get(name) for name in kept})
    assert attributes["http.request.method"] == ("_OTHER" if method == "BREW" else method)


def test_the_callers_trace_goes_on_where_nobody_records_spans(telemetry: Any, untraced: Any) -> None:
    untraced.client.get("/seen", headers={"traceparent": TRACEPARENT})

    assert format(untraced.seen.trace_id, "032x") == TRACE
    assert telemetry.spans == []


def test_a_request_without_a_trace_is_given_none(untraced: Any) -> None:
    untraced.client.get("/seen", headers={"traceparent": TRACEPARENT})
    untraced.client.get("/seen")

    assert not untraced.seen.is_valid


@pytest.mark.parametrize("which", ["server", "untraced"])
def test_requests_under_way_are_counted_now_and_not_when_they_have_ended(
    request: pytest.FixtureRequest, which: str
) -> None:
    server = request.getfixturevalue(which)

    def active(text: str) -> list[tuple[dict[str, str], float]]:
        families = {family.name: family for family in text_string_to_metric_families(text)}
        return [(s.labels, s.value) for s in families["http_server_active_requests"].samples]

    server.client.get("/seen")

    labels = {"http_request_method": "GET", "url_scheme": "http"}
    assert active(server.shown) == [(labels, 1.0)]
    assert active(server.telemetry.metrics()[0].decode()) == [(labels, 0.0)]


def test_two_servers_with_one_provider_count_their_requests_together(
    telemetry: Any, watched_server: Any
) -> None:
    first, second = (watched_server(meter_provider=telemetry.meters) for _ in range(2))
    second.client.get("/seen")

    assert 'http_server_active_requests{http_request_method="GET",url_scheme="http"} 1.0' in second.shown
    for server in first, second:
        server.telemetry.close()


def test_an_answer_that_breaks_off_is_no_longer_under_way(untraced: Any) -> None:
    with pytest.raises(RuntimeError, match="hunter2"):
        untraced.client.get("/broken")

    assert (
        b'http_server_active_requests{http_request_method="GET",url_scheme="http"} 0.0'
        in (untraced.telemetry.metrics()[0])
    )

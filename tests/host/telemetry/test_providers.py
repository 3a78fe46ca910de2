"""Where telemetry goes, each time in a process of its own, since providers are a process's."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytestmark = pytest.mark.slow

LOG = """
from grpo_host.telemetry.monitoring import Monitoring
monitoring = Monitoring()
monitoring.record("quality_score", 0.87)
monitoring.emit("user_interaction", {"resolved": True})
"""


def process(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=clean | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_without_configuration_nothing_is_printed_and_no_socket_is_used() -> None:
    watched = (
        "import sys\n"
        "sys.addaudithook(lambda event, _: exit(7) if event.startswith('socket.') else None)\n" + LOG
    )
    done = process(watched)

    assert (done.stdout, done.stderr) == ("", "")


CHAT = """
import asyncio
from grpo_host.agents.agent import Agent
from grpo_host.telemetry.agents import instruments
from grpo_sdk import Strategy, user
from grpo_sdk.testing import ScriptedBackend

def chat():
    agent = Agent(ScriptedBackend(), strategy=Strategy("sales"), instruments=instruments())
    asyncio.run(agent.open().act([user("Hi")]))
    return agent.instruments
"""


def test_a_server_without_configuration_prints_nothing_and_reaches_for_nothing() -> None:
    done = process(
        "import sys\n"
        "reaching = ('socket.connect', 'socket.bind', 'socket.getaddrinfo')\n"
        "sys.addaudithook(lambda event, _: exit(7) if event in reaching else None)\n"
        + CHAT
        + "from grpo_host.telemetry.server import ServerTelemetry\n"
        "server = ServerTelemetry()\nserver.start()\n"
        "assert chat() is not None\n"
        "server.close(1)\n"
    )

    assert (done.stdout, done.stderr) == ("", "")


def test_a_program_without_configuration_watches_no_conversation_and_loads_no_sdk() -> None:
    done = process(
        CHAT + "assert chat() is None\nimport sys\nassert 'opentelemetry.sdk.trace' not in sys.modules"
    )

    assert (done.stdout, done.stderr) == ("", "")


def test_a_tracer_provider_that_is_set_later_gets_the_next_conversation() -> None:
    done = process(
        CHAT
        + """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
chat()
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
chat()
print([span.name for span in spans.get_finished_spans()])
"""
    )

    assert done.stdout == "['chat scripted', 'invoke_agent sales']\n"


def test_a_tracer_provider_that_is_set_later_gets_a_servers_next_request() -> None:
    done = process("""
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from grpo_host.telemetry.server import ServerTelemetry
client = TestClient(ServerTelemetry().app(PlainTextResponse("ok")))
client.get("/")
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
client.get("/")
print([span.name for span in spans.get_finished_spans()])
""")

    assert done.stdout == "['GET']\n"


def test_an_application_that_wants_no_telemetry_has_none() -> None:
    done = process(
        "from opentelemetry import metrics, trace\n"
        "trace.set_tracer_provider(trace.NoOpTracerProvider())\n"
        "metrics.set_meter_provider(metrics.NoOpMeterProvider())\n" + CHAT + "chat()",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="console",
    )

    assert (done.stdout, done.stderr) == ("", "")


def test_a_process_that_seeds_the_global_generator_has_trace_ids_of_its_own() -> None:
    runs = [
        process("import random\nrandom.seed(0)\n" + CHAT + "chat()", OTEL_TRACES_EXPORTER="console")
        for _ in "ab"
    ]
    first, second = (set(re.findall(r'_id": "(0x[0-9a-f]{16,})"', run.stdout)) for run in runs)

    assert len(first) == 3  # a trace and its two spans
    assert not first & second


def test_spans_go_to_an_exporter_that_the_environment_names() -> None:
    done = process(CHAT + "chat()", OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="shop")

    assert '"name": "invoke_agent sales"' in done.stdout
    assert '"service.name": "shop"' in done.stdout


def test_the_providers_of_the_application_get_the_data_even_when_they_are_set_later() -> None:
    setting = """
from opentelemetry import metrics, _logs
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
reader, logs = InMemoryMetricReader(), InMemoryLogRecordExporter()
metrics.set_meter_provider(MeterProvider([reader]))
_logs.set_logger_provider(LoggerProvider())
_logs.get_logger_provider().add_log_record_processor(SimpleLogRecordProcessor(logs))
"""
    made, logged = LOG.split("monitoring.record", 1)
    shown = "\nprint('quality_score' in reader.get_metrics_data().to_json(), len(logs.get_finished_logs()))"

    before = process(setting + LOG + shown, OTEL_METRICS_EXPORTER="console")
    after = process(made + setting + "monitoring.record" + logged + shown)

    assert (before.stdout, after.stdout) == ("True 1\n", "True 1\n")


def test_an_exporter_that_the_environment_names_gets_the_data() -> None:
    done = process(LOG, OTEL_METRICS_EXPORTER="console", OTEL_LOGS_EXPORTER="console")

    assert '"name": "quality_score"' in done.stdout
    assert '"event_name": "user_interaction"' in done.stdout


def test_a_disabled_sdk_exports_nothing() -> None:
    assert process(LOG, OTEL_METRICS_EXPORTER="console", OTEL_SDK_DISABLED="true").stdout == ""


def test_an_exporter_that_is_not_installed_is_a_warning_with_the_command() -> None:
    done = process(LOG, OTEL_METRICS_EXPORTER="nowhere")

    assert "metrics are not exported to nowhere" in done.stderr
    assert "pip install opentelemetry-exporter-nowhere" in done.stderr
    assert "OTEL_METRICS_EXPORTER=none" in done.stderr


def test_the_data_reach_an_otlp_endpoint_before_the_process_ends() -> None:
    if importlib.util.find_spec("opentelemetry.exporter") is None:
        pytest.skip("opentelemetry-exporter-otlp-proto-http is not installed")
    posted: dict[str, bytes] = {}

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        process(
            LOG,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
            OTEL_EXPORTER_OTLP_COMPRESSION="none",
        )
        server.shutdown()

    assert sorted(posted) == ["/v1/logs", "/v1/metrics"]
    assert b"quality_score" in posted["/v1/metrics"]
    assert b"user_interaction" in posted["/v1/logs"]

"""Where telemetry goes, each time in a process of its own, since providers are a process's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

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

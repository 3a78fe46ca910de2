"""The guide's service: its Python block serves as it is written, and its curl blocks are answered.

Filled in: ``JOB_ID`` and ``CONVERSATION_ID``; the embedded model's name stands for a model of two
layers (``GRPO_MODEL_ALIASES``), so that four processes and a training job take no minutes. The
WebSocket block sends before its socket is open, which no browser does: its message is sent as it is
by a Python client.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

GUIDE = (Path(__file__).parent.parent / "docs" / "GUIDE.md").read_text(encoding="utf-8")
PORT = 8001

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(600)]


def block(language: str, holding: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    return next(code for code in found if holding in code)


def curl(holding: str, index: int, **filled: str) -> Any:
    """The JSON that a command of a block prints."""
    commands = block("bash", holding).replace("\\\n", " ")
    for name, value in filled.items():
        commands = commands.replace(name, value)
    command = re.findall(r"^curl .*?(?=\n\n|\n#|\Z)", commands, re.MULTILINE | re.DOTALL)[index]
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def service(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"port {PORT}, which the guide uses, is taken")
    directory = tmp_path_factory.mktemp("service")
    (directory / "service.py").write_text(block("python", "ultimate_grpo_service import app"))
    environment = {**os.environ, "GRPO_MODEL_ALIASES": f"smollm2-135m={tiny_model_path}"}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "service.py"], cwd=directory, env=environment, stdout=log, stderr=log
        )
    try:
        for _ in range(240):
            status = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"localhost:{PORT}/health/ready"]
            if subprocess.run(status, capture_output=True, text=True).stdout == "200":
                break
            assert process.poll() is None, (directory / "log").read_text()[-3000:]
            time.sleep(0.5)
        else:
            raise AssertionError((directory / "log").read_text()[-3000:])
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)


def test_a_conversation_is_started_and_continued(service: None) -> None:
    first = curl("# Start conversation", 0)
    second = curl("# Start conversation", 1, CONVERSATION_ID=first["conversation_id"])
    assert isinstance(first["response"], str)
    assert second["conversation_id"] == first["conversation_id"]
    assert second["strategy"] == "customer_service"


def test_the_metrics_and_the_health_check_answer(service: None) -> None:
    assert curl("# Get system metrics", 0)
    assert curl("# Get system metrics", 1)["status"] == "ok"


def test_the_websockets_message_is_answered(service: None) -> None:
    script = block("javascript", "new WebSocket")
    (url,) = re.findall(r"new WebSocket\('(.*?)'\)", script)
    (sent,) = re.findall(r"JSON\.stringify\((\{.*?\})\)\);", script, re.DOTALL)
    message = json.loads(re.sub(r"(\w+):", r'"\1":', sent).replace("'", '"'))
    with connect(url) as client:
        client.send(json.dumps(message))
        reply = json.loads(client.recv(timeout=120))
    assert reply["type"] == "chat_response"
    assert isinstance(reply["data"]["response"], str)


def test_a_training_job_is_started_watched_and_finished(service: None) -> None:
    started = curl("# Start training job", 0)
    assert "job_id" in started, started
    for _ in range(300):
        state = curl("# Check training status", 1, JOB_ID=started["job_id"])
        if state["status"] not in ("queued", "running"):
            break
        time.sleep(1)
    assert state["status"] == "succeeded", state
    served = subprocess.run(["curl", "-s", f"localhost:{PORT}/v1/models"], capture_output=True, text=True)
    assert state["model"] in [model["id"] for model in json.loads(served.stdout)["data"]]

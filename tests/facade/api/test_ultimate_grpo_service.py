"""The guide's service, started as the guide starts it."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

GUIDE = """
from grpo_agent_framework.api.ultimate_grpo_service import app
import uvicorn

if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port={port}, workers={workers})
"""


@pytest.fixture
def start(tmp_path):
    """``start(["script.py"])`` gives the URL of what it serves, once that is ready."""
    (tmp_path / "agent.yaml").write_text(
        "name: desk\nmodel: {name: tiny}\nbackend: {name: scripted, options: {replies: [Good day]}}\n"
        f"environment: support_desk\nrewards: [length]\noutput: {tmp_path / 'runs'}\n"
    )
    started = []

    def start(*command, port):
        environment = {**os.environ, "GRPO_AGENT_YAML": str(tmp_path / "agent.yaml"), "PORT": str(port)}
        started.append(subprocess.Popen([sys.executable, *command], cwd=tmp_path, env=environment))
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    return url
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError("the server does not become ready")

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.slow
def test_uvicorn_runs_the_app_in_one_process_or_several(start, tmp_path, port, workers):
    (tmp_path / "service.py").write_text(GUIDE.format(port=port, workers=workers))
    url = start("service.py", port=port)
    reply = httpx.post(f"{url}/api/chat", json={"message": "Hello", "strategy": "customer_service"})
    assert reply.json()["response"] == "Good day"


@pytest.mark.slow
def test_the_module_can_be_run(start, port):
    url = start("-m", "grpo_agent_framework.api.ultimate_grpo_service", port=port)
    assert httpx.get(f"{url}/health").json()["status"] == "ok"


def test_importing_it_makes_no_server():
    code = (
        "import sys; from grpo_agent_framework.api.ultimate_grpo_service import app; "
        "sys.exit(bool({'starlette', 'torch', 'sqlalchemy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

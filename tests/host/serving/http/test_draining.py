from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import httpx
import pytest

from grpo_host.serving.services import Part


async def test_while_draining_new_requests_are_refused_and_those_under_way_end(serving, eventually):
    async with serving() as server:
        slow = asyncio.create_task(server.client.post("/api/hold", json={"text": "slow"}))
        await eventually(lambda: server.handled)
        drain = asyncio.create_task(server.services.drain(120))
        await eventually(server.services.draining.is_set)
        new = await server.client.post("/api/say", json={"text": "new"})
        assert (new.status_code, new.json()["error"]["code"]) == (503, "shutting_down")
        assert int(new.headers["retry-after"]) >= 1
        ready = await server.client.get("/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "shutting_down"})
        assert (await server.client.get("/health/live")).status_code == 200
        assert not drain.done()
        server.release.set()
        assert (await slow).status_code == 200
        await drain
        assert "cancelled" not in server.handled


async def test_what_does_not_end_in_time_is_cancelled_and_told(serving, eventually):
    async with serving(max_concurrency=1) as server:
        running = asyncio.create_task(server.client.post("/api/say", json={"text": "a", "seconds": 3600}))
        await eventually(lambda: server.handled)
        waiting = asyncio.create_task(server.client.post("/api/say", json={"text": "b", "seconds": 3600}))
        await eventually(lambda: server.services.admission.waiting == 1)
        await server.services.drain(0.2)
        for answer in (await running, await waiting):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
        assert server.handled == ["say a", "cancelled"]


class StuckPart(Part):
    def __init__(self):
        self.events = []

    async def start(self):
        self.events.append("start")

    async def drain(self):
        self.events.append("drain")
        await asyncio.sleep(3600)

    async def close(self):
        self.events.append("close")
        await asyncio.sleep(3600)

    def unready(self):
        return "stuck"


async def test_a_part_that_does_not_end_does_not_keep_the_server(serving, monkeypatch):
    monkeypatch.setattr("grpo_host.serving.services.CLOSE_SECONDS", 0.2)
    part = StuckPart()

    async with serving(jobs=part) as server:
        assert (await server.client.get("/health/ready")).json() == {"status": "stuck"}
        await server.services.drain(0.1)
    assert part.events == ["start", "drain", "close"]


async def test_where_a_part_cannot_start_the_others_are_closed(serving):
    class Broken(StuckPart):
        async def start(self):
            raise RuntimeError("no disk")

        async def close(self):
            self.events.append("close")

    good, broken = Broken(), Broken()
    good.start = StuckPart.start.__get__(good)

    async def work():
        async with serving(models=good, jobs=broken):
            pytest.fail("it started")

    with pytest.raises(RuntimeError, match="no disk"):
        await work()
    assert good.events == ["start", "close"]
    assert broken.events == ["close"]


SERVER = """
    import asyncio, sys
    from pathlib import Path
    from pydantic import BaseModel
    from grpo_host.plugins import Registry
    from grpo_host.serving.http import pages
    from grpo_host.serving.app import create_app
    from grpo_host.serving.http.endpoint import Endpoint
    from grpo_host.serving.access.caller import Scope
    from grpo_host.serving.server import serve
    from grpo_host.serving.settings import ServerSettings

    class Wait(BaseModel):
        text: str

    async def wait(call):
        Path("begun").touch()
        while not Path("released").exists():
            await asyncio.sleep(0.02)
        return call.body

    settings = ServerSettings.of(state=sys.argv[1], port=int(sys.argv[2]), drain_seconds=float(sys.argv[3]))
    endpoint = Endpoint("POST", "/api/wait", wait, Scope.CHAT, "Wait", request=Wait, response=Wait)
    none = dict.fromkeys(("telemetry", "models", "chat", "jobs"))
    app = create_app(settings, Registry(), endpoints=[*pages.endpoints(), endpoint], websocket_routes=[], **none)
    serve(settings, app)
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def process(tmp_path):
    """``start(drain_seconds, ...)``: a real server in a process of its own; its URL and the process."""
    started = []

    def start(drain_seconds, **options):
        port = free_port()
        script = tmp_path / "server.py"
        script.write_text(textwrap.dedent(SERVER))
        arguments = [sys.executable, str(script), str(tmp_path / "state"), str(port), str(drain_seconds)]
        child = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=tmp_path, **options)
        started.append(child)
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, child)
        return url, child

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


def wait_until_ready(url, child, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert child.poll() is None, child.stderr.read()
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("the server did not become ready")


@pytest.mark.slow
async def test_sigterm_lets_requests_end_refuses_new_ones_and_then_the_process_ends(
    process, tmp_path, eventually
):
    url, child = process(120)

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        slow = asyncio.create_task(client.post("/api/wait", json={"text": "slow"}))
        await eventually((tmp_path / "begun").exists)
        child.send_signal(signal.SIGTERM)
        async with httpx.AsyncClient(base_url=url, timeout=120) as other:  # on a connection of its own
            while (await other.get("/health/ready")).status_code != 503:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            assert (await other.get("/health/live")).status_code == 200
            refused = await other.post("/api/wait", json={"text": "new"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        (tmp_path / "released").touch()
        assert (await slow).json() == {"text": "slow"}
    assert child.wait(120) in (0, -signal.SIGTERM)


@pytest.mark.slow
async def test_a_closed_terminal_lets_requests_end_too(process, tmp_path, eventually):
    url, child = process(120)

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        slow = asyncio.create_task(client.post("/api/wait", json={"text": "slow"}))
        await eventually((tmp_path / "begun").exists)
        child.send_signal(signal.SIGHUP)
        async with httpx.AsyncClient(base_url=url, timeout=120) as other:
            while (await other.get("/health/ready")).status_code != 503:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        (tmp_path / "released").touch()
        assert (await slow).json() == {"text": "slow"}
    assert child.wait(120) in (0, -signal.SIGHUP)


@pytest.mark.slow
def test_under_nohup_a_closed_terminal_ends_nothing(process):
    url, child = process(1.0, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    child.send_signal(signal.SIGHUP)
    time.sleep(1.0)
    assert httpx.get(f"{url}/health/ready").status_code == 200
    child.send_signal(signal.SIGTERM)
    assert child.wait(120) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("second", [False, True], ids=["once", "twice"])
@pytest.mark.slow
async def test_the_end_is_bounded_whatever_is_under_way(process, second, tmp_path, eventually):
    url, child = process(1.0)

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        hung = asyncio.create_task(client.post("/api/wait", json={"text": "hung"}))
        await eventually((tmp_path / "begun").exists)
        child.send_signal(signal.SIGTERM)
        if second:
            await asyncio.sleep(0.2)
            child.send_signal(signal.SIGTERM)
        answer = await hung
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
    child.wait(120)  # what hangs hangs for ever


def send_until_refused(connection, piece, most):
    sent = 0
    try:
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


@pytest.mark.slow
def test_a_head_without_an_end_or_measure_is_cut_off(process):
    url, _ = process(1.0)
    port = int(url.rpartition(":")[2])
    for piece in (b"x-a: " + b"a" * 4096 + b"\r\n", b"a" * 4096):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx-b: ")
            sent = send_until_refused(connection, piece, 64 * 1024 * 1024)
            assert sent < 32 * 1024 * 1024  # what the kernel holds, and no more
    assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_grpo_host_serves_with_several_workers_and_ends_with_them(tmp_path, ending):
    agent = tmp_path / "agent.yaml"
    agent.write_text(
        "name: tester\nmodel: scripted\nbackend: scripted\nenvironment: arithmetic\nrewards: [length]\n"
    )
    port = free_port()
    grpo_host = [sys.executable, "-m", "grpo_host.cli"]
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    environment.pop("GRPO_DATABASE_URL", None)
    token = subprocess.run(
        [*grpo_host, "keys", "create", "--name", "test", "--scopes", "chat,admin"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    log = (tmp_path / "log").open("w+")
    child = subprocess.Popen(
        [*grpo_host, "serve", str(agent), "--host", "0.0.0.0", "--port", str(port), "--workers", "2"],
        cwd=tmp_path,
        env=environment,
        stderr=log,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, child, 60)
        with httpx.Client(base_url=url) as client:
            assert client.get("/v1/models").status_code == 401
            known = client.get("/nothing", headers={"authorization": f"Bearer {token}"})
            assert known.status_code == 404
        child.send_signal(ending)
        assert child.wait(20) in (0, -ending)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/health")
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        log.seek(0)
        text = log.read()
        log.close()
    assert "Traceback" not in text
    assert token not in text


@pytest.fixture
def grpo_host(tmp_path):
    """Runs the command where there is an agent.yaml."""
    (tmp_path / "agent.yaml").write_text(
        "name: tester\nmodel: scripted\nbackend: scripted\nenvironment: arithmetic\nrewards: [length]\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GRPO_DATABASE_URL"}

    def run(*arguments, **more):
        return subprocess.run(
            [sys.executable, "-m", "grpo_host.cli", *arguments],
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.mark.slow
def test_what_keeps_the_server_from_starting_is_told_in_one_line(grpo_host, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = grpo_host("serve", "agent.yaml", "--port", str(port))
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    url = f"sqlite+aiosqlite:///{tmp_path / 'none' / 'server.db'}"
    refused = grpo_host("serve", "agent.yaml", "--port", "0", GRPO_DATABASE_URL=url)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: the database sqlite+aiosqlite:///")
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_grpo_host_refuses_to_listen_for_others_without_a_key(grpo_host):
    refused = grpo_host("serve", "agent.yaml", "--host", "0.0.0.0")
    assert refused.returncode == 2
    command = refused.stderr.split("Make one: ")[1].split(" (")[0].split()
    assert command[:3] == ["grpo-host", "keys", "create"]
    assert refused.stderr.count("\n") == 1

    made = grpo_host(*command[1:])
    assert made.returncode == 0, made.stderr
    (record,) = json.loads(grpo_host("keys", "list", "--json").stdout)
    assert record["scopes"] == ["admin", "chat", "train"]
    assert made.stdout.strip().startswith(f"grpo_{record['id']}_")
    assert grpo_host("keys", "revoke", record["id"]).returncode == 0
    assert grpo_host("serve", "agent.yaml", "--host", "0.0.0.0").returncode == 2
    assert grpo_host("keys", "revoke", "nobody").returncode == 1

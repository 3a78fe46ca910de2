"""What serving adds to a model that answers at once: ``python -m bench.serving [--json]``.

Our server stands on a scripted backend without latency. Beside it, in the same run, LiteLLM's proxy
stands in front of a mock OpenAI server that answers at once, and the mock is asked directly as well.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.http_peers import BareClient
from bench.report import ROOT, Report, Row, Target, publish
from grpo_host.backends.event_loop import new_event_loop

CONCURRENCY = 32
ROUNDS = 4
SECONDS = 4.0
WARM_UP = 64
CHATS, CHAT_TURNS = 64, 8
PORTS = {"ours": 8391, "mock": 8392, "litellm": 8393, "traced": 8394}
AGENT = """
name: mock
model: {name: tiny}
backend: {name: scripted, options: {replies: ["Hello! How can I help you?"]}}
environment: support_desk
rewards: [length]
serving: {rate: 10000000/minute}
"""
PROXY = """
model_list:
  - model_name: mock
    litellm_params: {model: openai/mock, api_base: "http://127.0.0.1:%d/v1", api_key: none}
litellm_settings: {telemetry: false, drop_params: true}
general_settings: {master_key: %s}
"""
PROXY_KEY = "sk-2f6c0a3be19d4e57a8f0"
PAYLOAD: dict[str, Any] = {"model": "mock", "messages": [{"role": "user", "content": "Where is my order?"}]}


PEER = Path.home() / ".cache" / "grpo-agent-framework" / "bench" / "litellm-proxy"
"""The proxy's own environment: what it needs cannot be installed beside our tested set."""


def litellm_proxy() -> Path:
    """The proxy's command, installed at the first call."""
    command = PEER / "bin" / "litellm"
    if not command.exists():
        print(f"installing LiteLLM's proxy into {PEER} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
        wanted = f"litellm[proxy]=={metadata.version('litellm')}"
        subprocess.run([str(PEER / "bin" / "pip"), "install", "-q", wanted], check=True)
    return command


@dataclass(slots=True)
class Measured:
    """One server under load, in all of its rounds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, percent: int) -> float:
        """Milliseconds."""
        return statistics.quantiles(self.latencies, n=100)[percent - 1] * 1000


@contextmanager
def running(command: Sequence[str], url: str, directory: str, **variables: str) -> Iterator[int]:
    """The server of ``command``, with ``variables`` in its environment, once ``url`` answers; its process id."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=1):
        raise RuntimeError(f"something else answers at {url}; end it first")
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **variables}
    with subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            _wait(url, process)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"the server of {url} ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError as answer:
            if answer.code != 503:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer")


async def load(port: int, key: str, measured: Measured) -> None:
    """``CONCURRENCY`` clients that ask one thing after another for ``SECONDS``."""
    client = BareClient("127.0.0.1", port, key)

    async def ask(until: float) -> None:
        while time.perf_counter() < until:
            started = time.perf_counter()
            await client.post(PAYLOAD)
            measured.latencies.append(time.perf_counter() - started)

    try:
        await asyncio.gather(*(client.post(PAYLOAD) for _ in range(WARM_UP)))
        started = time.perf_counter()
        await asyncio.gather(*(ask(started + SECONDS) for _ in range(CONCURRENCY)))
        measured.seconds += time.perf_counter() - started
    finally:
        await client.close()


async def chats(port: int, key: str, server: int) -> float:
    """``CHATS`` clients of /api/chat, each in conversations of its own; the server's CPU a turn, in ms."""
    client = BareClient("127.0.0.1", port, key, "/api/chat")
    turns = 0

    async def talk(until: float) -> None:
        nonlocal turns
        while time.perf_counter() < until:
            said: dict[str, Any] = {"message": "Where is my order? I have waited for a week now."}
            for _ in range(CHAT_TURNS):
                answer = await client.post(said)
                said["conversation_id"] = answer["conversation_id"]
                turns += 1

    try:
        await asyncio.gather(*(talk(time.perf_counter() + 0.1) for _ in range(CHATS)))
        turns, before = 0, cpu_seconds(server)
        await asyncio.gather(*(talk(time.perf_counter() + SECONDS) for _ in range(CHATS)))
        return 1000 * (cpu_seconds(server) - before) / turns
    finally:
        await client.close()


def cpu_seconds(process: int) -> float:
    """What a process has used, its own and the system's for it."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def under_load(keys: dict[str, str]) -> dict[str, Measured]:
    """The servers of ``keys``, one at a time and in turns: the machine is not equally fast all the time."""
    measured = {name: Measured() for name in keys}
    for _ in range(ROUNDS):
        for name, key in keys.items():
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(load(PORTS[name], key, measured[name]))
    return measured


def measure() -> Report:
    """Ours, the mock, and the proxy before the mock."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "agent.yaml").write_text(AGENT)
        Path(directory, "proxy.yaml").write_text(PROXY % (PORTS["mock"], PROXY_KEY))
        bin_ = Path(sys.executable).parent
        host = [str(bin_ / "grpo-host"), "serve", "agent.yaml", "--port", str(PORTS["ours"])]
        making = [host[0], "keys", "create", "--name", "bench", "--scopes", "chat", "--agent", "agent.yaml"]
        made = subprocess.run(making, cwd=directory, stdout=subprocess.PIPE, text=True, check=True)
        key = made.stdout.strip()
        mock = [sys.executable, str(ROOT / "bench" / "mock_openai_server.py"), "--port", str(PORTS["mock"])]
        mock += ["--mean", "0", "--tool-turns", "0"]
        proxy = [str(litellm_proxy()), "--config", "proxy.yaml", "--port", str(PORTS["litellm"])]
        traced = [*host[:-1], str(PORTS["traced"])]
        collector = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": _url("mock", "")}
        with (
            running(mock, _url("mock", "/"), directory),
            running(host, _url("ours", "/health/ready"), directory) as server,
            running(traced, _url("traced", "/health/ready"), directory, **collector),
            running(proxy, _url("litellm", "/health/liveliness"), directory),
        ):
            all_ = under_load({"ours": key, "traced": key, "litellm": PROXY_KEY, "mock": ""})
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                chatting = min(runner.run(chats(PORTS["ours"], key, server)) for _ in range(ROUNDS))
    ours, litellm, direct = all_["ours"], all_["litellm"], all_["mock"]
    added = {percent: litellm.quantile(percent) - direct.quantile(percent) for percent in (50, 99)}
    rows = [
        Row(
            "our /v1/chat/completions, scripted backend",
            ours.rate,
            "requests/s",
            ours.rate / litellm.rate,
            "LiteLLM's proxy",
            Target("≥", 20, "ratio"),
        ),
        Row("ours, with every span exported over OTLP", all_["traced"].rate, "requests/s"),
        Row("LiteLLM's proxy before the mock server", litellm.rate, "requests/s"),
        Row("the mock server, asked directly", direct.rate, "requests/s"),
        Row(
            f"our /api/chat, {CHATS} clients, SQLite: CPU of the server a turn",
            chatting,
            "ms",
            target=Target("≤", 1.5),
        ),
        *(
            Row(
                f"latency that ours adds, p{percent}",
                ours.quantile(percent),
                "ms",
                ours.quantile(percent) / added[percent],
                "LiteLLM's",
                Target("≤", 0.1, "ratio"),
            )
            for percent in added
        ),
        *(
            Row(f"latency that LiteLLM's proxy adds, p{percent}", value, "ms")
            for percent, value in added.items()
        ),
    ]
    return Report(
        "Serving",
        f"{CONCURRENCY} clients that ask one thing after another, {ROUNDS} times {SECONDS:g} s each server in "
        "its turn, in a process beside the servers on the same cores. Ours is `grpo-host serve` with all of "
        "its middleware, a key and its rate limit on, on a backend that answers at once, so all of its "
        "latency is added; the proxy's, with its master key and no database, is what comes on top of asking "
        "the mock server directly. Without an exporter ours keeps metrics and makes no spans; exported spans "
        "go to the mock server, which takes anything. A turn of /api/chat reads its conversation and writes two "
        f"messages durably before it is answered; conversations have {CHAT_TURNS} turns, and the best of "
        f"{ROUNDS} rounds counts.",
        rows,
    )


def _url(name: str, path: str) -> str:
    return f"http://127.0.0.1:{PORTS[name]}{path}"


if __name__ == "__main__":
    publish(measure())

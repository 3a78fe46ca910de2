"""Minutes of chats with a server that is killed in the middle: ``python -m bench.soak [--minutes 10]``.

``grpo-host serve`` on a scripted backend and its SQLite file; half-way it gets ``kill -9`` and is
started again. At the end every message whose answer had come is looked for in its conversation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.report import Report, Row, Target, publish

PORT = 8395
URL = f"http://127.0.0.1:{PORT}"
CLIENTS = 16
LENGTH = 12
"""Messages of a conversation."""
PAUSE = 0.05
"""Seconds between a client's messages."""
AGENT = """
name: soak
model: {name: tiny}
backend: {name: scripted, options: {replies: ["Good day", "I see", "Anything else?"]}}
environment: support_desk
rewards: [length]
serving: {rate: null}
"""


@dataclass
class Seen:
    """What the clients know."""

    acknowledged: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """By conversation: each message and its answer, in order."""
    refused: int = 0
    """Asked while the server was down, or cut off: not acknowledged."""
    seconds: list[float] = field(default_factory=list)

    @property
    def messages(self) -> int:
        return sum(map(len, self.acknowledged.values()))


def start(directory: str) -> subprocess.Popen[bytes]:
    """The server, ready."""
    command = [str(Path(sys.executable).parent / "grpo-host"), "serve", "agent.yaml", "--port", str(PORT)]
    with Path(directory, "server.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    asyncio.run(_ready(process))
    return process


async def _ready(process: subprocess.Popen[bytes]) -> None:
    async with aiohttp.ClientSession() as session:
        while process.poll() is None:
            try:
                async with session.get(f"{URL}/health/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError(f"the server ended with {process.returncode}")


async def talk(number: int, until: float, seen: Seen) -> None:
    """One client: conversation after conversation."""
    count = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        while time.monotonic() < until:
            conversation: str | None = None
            for _ in range(LENGTH):
                count += 1
                message = f"client {number} message {count}"
                started = time.perf_counter()
                try:
                    body = {"message": message, "conversation_id": conversation}
                    async with session.post(f"{URL}/api/chat", json=body) as answer:
                        answer.raise_for_status()
                        reply = await answer.json()
                except (aiohttp.ClientError, TimeoutError):
                    seen.refused += 1
                    await asyncio.sleep(0.5)
                    continue
                seen.seconds.append(time.perf_counter() - started)
                conversation = str(reply["conversation_id"])
                seen.acknowledged.setdefault(conversation, []).append((message, reply["response"]))
                await asyncio.sleep(PAUSE)


async def traffic(minutes: float, seen: Seen) -> None:
    """All clients for so long."""
    until = time.monotonic() + minutes * 60
    await asyncio.gather(*(talk(number, until, seen) for number in range(CLIENTS)))


async def check(seen: Seen) -> tuple[int, int]:
    """How many acknowledged messages are lost, and how many are there twice."""
    lost = doubled = 0
    async with aiohttp.ClientSession() as session:
        for conversation, exchanges in seen.acknowledged.items():
            async with session.get(f"{URL}/api/conversations/{conversation}") as answer:
                history = (await answer.json()).get("history", []) if answer.status == 200 else []
            said = [message["content"] for message in history]
            pairs = list(zip(said[::2], said[1::2], strict=False))
            lost += sum(exchange not in pairs for exchange in exchanges)
            doubled += len(said[::2]) - len(set(said[::2]))
    return lost, doubled


def measure(minutes: float) -> Report:
    """Traffic, kill -9, traffic, and what is left."""
    seen = Seen()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "agent.yaml").write_text(AGENT)
        process = start(directory)
        memory = {"first": _resident(process.pid)}

        async def run() -> None:
            nonlocal process
            clients = asyncio.create_task(traffic(minutes, seen))
            await asyncio.sleep(minutes * 30)
            before = seen.messages
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = await asyncio.to_thread(start, directory)
            print(f"killed after {before} messages and started again", file=sys.stderr)
            await clients

        try:
            asyncio.run(run())
            memory["last"] = _resident(process.pid)
            lost, doubled = asyncio.run(check(seen))
        finally:
            process.terminate()
            process.wait(60)
    latencies = sorted(seen.seconds)
    rows = [
        Row("acknowledged messages that are lost", lost, "", None, "", Target("≤", 0)),
        Row("messages that are there twice", doubled, "", None, "", Target("≤", 0)),
        Row("acknowledged messages", seen.messages, ""),
        Row("conversations", len(seen.acknowledged), ""),
        Row("requests that failed while the server was down", seen.refused, ""),
        Row("latency, p50", latencies[len(latencies) // 2] * 1000, "ms"),
        Row("latency, p99", latencies[int(len(latencies) * 0.99)] * 1000, "ms"),
        Row("resident memory at the end", memory["last"] / 2**20, "MiB"),
    ]
    return Report(
        "Soak",
        f"{minutes:g} minutes of {CLIENTS} clients that chat over HTTP with `grpo-host serve` on a scripted "
        "backend and SQLite; half-way the server gets kill -9 and is started again.",
        rows,
        [json.dumps({"clients": CLIENTS, "messages a conversation": LENGTH})],
    )


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Parse the duration and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sys.argv = [sys.argv[0], *(["--json"] if options.json else [])]
    publish(measure(options.minutes))


if __name__ == "__main__":
    main()

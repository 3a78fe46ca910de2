"""Two servers, each a process of its own, on one PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time

import httpx
import pytest

pytestmark = pytest.mark.slow

PLUGIN = """
import asyncio
from grpo_sdk.hooks import hookimpl
from grpo_sdk.testing import ScriptedBackend


def answer(messages, tools):
    users = [m["content"] for m in messages if m["role"] == "user"]
    return f"{len(users)}: {users[-1]}"


class Counting(ScriptedBackend):
    def __init__(self, model):
        super().__init__(model, script=answer, latency=0.05)


class Plugin:
    @hookimpl
    def grpo_backends(self):
        return {"counting": Counting}
"""
SERVER = """
import sys
from pathlib import Path
from counting import Plugin
from grpo_host.config.load import load_config
from grpo_host.plugins import load_plugins
from grpo_host.serving.app import create_app
from grpo_host.serving.server import serve
from grpo_host.serving.settings import ServerSettings

registry = load_plugins()
registry.register(Plugin(), "counting")
loaded = load_config(Path(sys.argv[1]))
settings = ServerSettings.of(loaded, port=int(sys.argv[2]), rate=None)
serve(settings, create_app(settings, registry, loaded=loaded))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def replicas(tmp_path, postgres_url):
    (tmp_path / "counting.py").write_text(PLUGIN)
    (tmp_path / "server.py").write_text(SERVER)
    path = tmp_path / "agent.yaml"
    path.write_text(
        "name: desk\nmodel: {name: tiny}\nbackend: counting\nenvironment: support_desk\n"
        f"rewards: [length]\noutput: {tmp_path / 'runs'}\n"
    )
    environment = {**os.environ, "GRPO_DATABASE_URL": postgres_url}
    ports = [free_port(), free_port()]
    command = [sys.executable, str(tmp_path / "server.py"), str(path)]
    processes = [
        subprocess.Popen([*command, str(port)], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        for port in ports
    ]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    try:
        for url in urls:
            _wait_until_ready(url)
        yield urls
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


def _wait_until_ready(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url} does not become ready")


def say(url, message, conversation_id=None):
    body = {"message": message, "conversation_id": conversation_id}
    return httpx.post(f"{url}/api/chat", json=body, timeout=60)


def test_they_serve_one_conversation_in_turn(replicas):
    first, second = replicas
    conversation = say(first, "a").json()["conversation_id"]
    answers = [
        say(url, text, conversation).json()["response"]
        for url, text in ((second, "b"), (first, "c"), (second, "d"))
    ]
    assert answers == ["2: b", "3: c", "4: d"]


def test_no_message_is_lost_or_doubled_when_both_are_asked_at_once(replicas):
    conversation = say(replicas[0], "first").json()["conversation_id"]

    async def talk(client, number):
        body = {"message": f"message {number}", "conversation_id": conversation}
        for _ in range(50):
            reply = await client.post(f"{replicas[number % 2]}/api/chat", json=body)
            if reply.status_code != 409:
                assert reply.status_code == 200, reply.text
                return reply.json()["response"]
            await asyncio.sleep(0.05)
        raise AssertionError("always a conflict")

    async def scenario():
        async with httpx.AsyncClient(timeout=60) as client:
            return await asyncio.gather(*(talk(client, number) for number in range(12)))

    answers = asyncio.run(scenario())
    history = httpx.get(f"{replicas[0]}/api/conversations/{conversation}").json()["history"]
    assert [message["role"] for message in history] == ["user", "assistant"] * 13
    said = [message["content"] for message in history if message["role"] == "user"]
    assert sorted(said) == sorted(["first", *(f"message {number}" for number in range(12))])
    kept = [message["content"] for message in history if message["role"] == "assistant"]
    assert sorted(answers) == sorted(kept[1:]), "what was answered is what is kept"
    assert [text.partition(":")[0] for text in kept] == [str(number) for number in range(1, 14)]

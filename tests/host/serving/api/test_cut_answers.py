"""Answers that the end of the server cuts: whoever reads a stream is told, and not left with half a text."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from grpo_host.config.load import load_config
from grpo_host.plugins import load_plugins
from grpo_host.serving.app import create_app
from grpo_host.serving.settings import ServerSettings
from grpo_sdk.backend import Backend, Capability
from grpo_sdk.hooks import hookimpl


class Hanging(Backend):
    """Says two words and then nothing more."""

    capabilities = frozenset({Capability.CHAT, Capability.STREAMING})

    async def chat(self, messages, sampling, tools=()):
        raise NotImplementedError

    async def stream(self, messages, sampling, tools=()):
        yield "Your order "
        await asyncio.sleep(3600)


class Backends:
    @hookimpl
    def grpo_backends(self):
        return {"hanging": Hanging}


@pytest.fixture
def hanging(tmp_path):
    """A server whose answers never end."""

    @asynccontextmanager
    async def start():
        path = tmp_path / "agent.yaml"
        path.write_text(
            "name: desk\nmodel: tiny\nbackend: hanging\nenvironment: support_desk\nrewards: [length]\n"
            f"output: {tmp_path / 'runs'}\n"
        )
        registry = load_plugins()
        registry.register(Backends(), "test-backends")
        loaded = load_config(path)
        app = create_app(ServerSettings.of(loaded, state=tmp_path / "state"), registry, loaded=loaded)
        async with app.router.lifespan_context(app):
            yield app

    return start


async def cut(app, path, body):
    """The lines of a stream that was begun when the server ended."""
    begun = asyncio.Event()
    sent = []

    async def receive():
        if not sent:
            sent.append(True)
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    texts, ended = [], []

    async def send(message):
        texts.append(message.get("body", b"").decode())
        if message["type"] == "http.response.body":
            ended.append(not message.get("more_body", False))
            if "order" in texts[-1]:
                begun.set()

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "scheme": "http", "http_version": "1.1",
    }  # fmt: skip
    asking = asyncio.create_task(app(scope, receive, send))
    await asyncio.wait_for(begun.wait(), 60)
    await app.state.services.drain(0.1)
    await asyncio.wait_for(asking, 60)
    assert ended[-1], "the answer has an end, so that a connection can be used again"
    return [line.removeprefix("data: ") for line in "".join(texts).splitlines() if line]


async def test_a_stream_of_v1_that_is_cut_ends_with_an_error_and_done(hanging):
    async with hanging() as app:
        asked = {"model": "desk", "stream": True, "messages": [{"role": "user", "content": "Where?"}]}
        *_, error, done = await cut(app, "/v1/chat/completions", asked)
    assert json.loads(error)["error"]["code"] == "shutting_down"
    assert done == "[DONE]"


async def test_a_stream_of_responses_that_is_cut_ends_with_a_failure_that_says_why(hanging):
    async with hanging() as app:
        *_, last = await cut(app, "/v1/responses", {"model": "desk", "stream": True, "input": "Where?"})
    failed = json.loads(last)
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert "shutting down" in failed["response"]["error"]["message"]


async def test_a_chat_s_stream_that_is_cut_ends_with_an_error_and_is_not_kept(hanging):
    async with hanging() as app:
        lines = await cut(app, "/api/chat", {"message": "Where?", "stream": True, "use_tools": False})
        conversations = await app.state.services.chat.store.list()
    assert json.loads(lines[-1])["error"]["code"] == "shutting_down"
    assert conversations == []


@pytest.mark.slow
async def test_a_websocket_s_answer_that_is_cut_is_told_by_its_id(hanging, monkeypatch):
    import uvicorn
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async with hanging() as app:
        config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="websockets-sansio")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}/ws") as socket:
            asked = {"message": "Where?", "stream": True, "use_tools": False}
            await socket.send(json.dumps({"type": "chat", "id": "first", "data": asked}))
            assert json.loads(await socket.recv())["type"] == "chat_delta"
            await app.state.services.drain(0.1)
            told = json.loads(await socket.recv())
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        server.should_exit = True
        await task
        code = closed.value.rcvd.code
    assert (told["id"], told["type"], told["data"]["code"]) == ("first", "error", "shutting_down")
    assert code == 1001

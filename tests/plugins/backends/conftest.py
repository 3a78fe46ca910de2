"""A local server that speaks OpenAI's chat protocol, one scripted answer a request."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("aiohttp")
from aiohttp import web

from grpo_backends.litellm_chat import LiteLLMBackend
from grpo_backends.openai_http import OpenAIChatBackend
from grpo_sdk import ModelSpec
from grpo_sdk.backend import Backend

Answer = dict[str, Any]


def completion(
    content: str | None = "Hello.",
    *,
    tool_calls: list[dict[str, Any]] | None = None,
    finish_reason: str | None = None,
) -> Answer:
    message = {"role": "assistant", "content": content, "tool_calls": tool_calls}
    reason = finish_reason or ("tool_calls" if tool_calls else "stop")
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> Answer:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "mock",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


LOOKUP = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "lookup", "arguments": '{"id": 1}'},
}


@dataclass
class Refusal:
    """A status with an error in OpenAI's form."""

    status: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class ChatServer:
    """What it was asked, and at which address it is."""

    base_url: str
    answers: list[Any]
    requests: list[Answer] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, Refusal):
            error = {"error": {"message": answer.message, "type": "error", "code": None}}
            return web.json_response(error, status=answer.status, headers=answer.headers)
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return web.json_response(completion())
        if isinstance(answer, list):
            stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await stream.prepare(request)
            for event in answer:
                text = event if isinstance(event, str) else json.dumps(event)
                await stream.write(f"data: {text}\n\n".encode())
            await stream.write_eof()
            return stream
        return web.json_response(answer)


Serve = Callable[..., AbstractAsyncContextManager[ChatServer]]


@pytest.fixture
def chat_server() -> Serve:
    """``async with chat_server(answer, answer, …) as server``; the last answer is repeated."""

    @asynccontextmanager
    async def serve(*answers: Any) -> AsyncIterator[ChatServer]:
        app = web.Application()
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        server = ChatServer("", list(answers))
        app.router.add_post("/v1/chat/completions", server.handle)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        server.base_url = f"http://127.0.0.1:{port}/v1"
        try:
            yield server
        finally:
            await runner.cleanup()

    return serve


@pytest.fixture(params=["openai", "litellm"])
def make(request: pytest.FixtureRequest) -> Callable[..., Backend]:
    """A backend for a base URL."""
    if importlib.util.find_spec("litellm" if request.param == "litellm" else "httptools") is None:
        pytest.skip(f"{request.param} needs a package that is not installed")

    def backend(url: str, **options: Any) -> Backend:
        if request.param == "openai":
            return OpenAIChatBackend(ModelSpec("mock"), base_url=url, **options)
        options.setdefault("api_key", "none")
        return LiteLLMBackend(ModelSpec("openai/mock"), api_base=url, **options)

    return backend


@pytest.fixture
def protocol() -> Any:
    """The makers of answers: ``completion``, ``chunk``, ``Refusal`` and ``LOOKUP``."""

    class Protocol:
        pass

    made = Protocol()
    for name, value in (
        ("completion", completion),
        ("chunk", chunk),
        ("Refusal", Refusal),
        ("LOOKUP", LOOKUP),
    ):
        setattr(made, name, value)
    return made

"""A server in this process: its real middleware, routes and database, asked without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.websockets import WebSocket

from grpo_host.config.load import load_config
from grpo_host.plugins import Registry, load_plugins
from grpo_host.serving.access.caller import Key, Scope
from grpo_host.serving.app import create_app
from grpo_host.serving.http.endpoint import Call, Endpoint, SocketEndpoint
from grpo_host.serving.server import _config, _listen
from grpo_host.serving.services import Services
from grpo_host.serving.settings import ServerSettings
from grpo_sdk.hooks import hookimpl

NO_PARTS = {"telemetry": None, "models": None, "chat": None, "jobs": None}


class Said(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str
    seconds: float = 0.0


@dataclass
class Server:
    """One that runs, and a client of it."""

    app: Starlette
    client: httpx.AsyncClient
    handled: list[str]
    """What reached a handler, and how it ended."""
    release: asyncio.Event
    """Lets ``/api/hold`` answer."""

    @property
    def services(self) -> Services:
        return self.app.state.services

    async def key(self, *scopes: str) -> dict[str, str]:
        """Headers with a new key that has ``scopes``, all without any."""
        _, token = await self.services.keys.create("test", [Scope(s) for s in scopes] or list(Scope))
        self.services.keys.forget()
        return {"authorization": f"Bearer {token}"}

    def from_address(self, address: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, client=(address, 5))
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


def say_endpoints(handled: list[str], release: asyncio.Event) -> list[Endpoint]:
    async def hold(call: Call) -> Said:
        handled.append(f"hold {call.body.text}")
        await release.wait()
        return call.body

    async def say(call: Call) -> Said:
        handled.append(f"say {call.body.text}")
        try:
            await asyncio.sleep(call.body.seconds)
        except asyncio.CancelledError:
            handled.append("cancelled")
            raise
        return call.body

    async def count(call: Call) -> StreamingResponse:
        async def numbers() -> AsyncIterator[bytes]:
            try:
                for number in range(100):
                    yield b"data: %d\n\n" % number
                    await asyncio.sleep(0.01)
            finally:
                handled.append("stream closed")

        return StreamingResponse(numbers(), media_type="text/event-stream")

    async def fail(call: Call) -> Said:
        raise ZeroDivisionError("secret inside")

    return [
        Endpoint("POST", "/api/say", say, Scope.CHAT, "Say it", request=Said, response=Said),
        Endpoint("POST", "/v1/say", say, Scope.CHAT, "Say it", request=Said, response=Said),
        Endpoint("POST", "/api/hold", hold, Scope.CHAT, "Say it later", request=Said, response=Said),
        Endpoint("GET", "/api/count", count, Scope.CHAT, "Count", stream=Said),
        Endpoint("GET", "/api/fail", fail, Scope.TRAIN, "Fail", response=Said),
        Endpoint("DELETE", "/api/things/{thing_id}", fail, Scope.ADMIN, "Fail", response=Said),
    ]


async def echo(websocket: WebSocket, key: Key, services: Services) -> None:
    while True:
        text = await websocket.receive_text()
        await websocket.send_text(f"{key.name} {text}")


@pytest.fixture
def serving(tmp_path: Path) -> Callable[..., Any]:
    """``async with serving(rate="2/minute") as server``: its features are a few endpoints of its own,
    and those that anyone may ask."""

    @asynccontextmanager
    async def start(endpoints: Sequence[Endpoint] | None = None, **options: Any) -> AsyncIterator[Server]:
        from grpo_host.serving.http import pages

        handled: list[str] = []
        release = asyncio.Event()
        parts = {name: options.pop(name, None) for name in NO_PARTS}
        sockets = options.pop("websocket_routes", [])
        settings = ServerSettings.of(**{"state": tmp_path / "state", **options})
        app = create_app(
            settings,
            Registry(),
            endpoints=[*pages.endpoints(), *(endpoints or say_endpoints(handled, release))],
            websocket_routes=sockets,
            **parts,
        )
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                yield Server(app, client, handled, release)

    return start


@pytest.fixture
def served(tmp_path: Path) -> Callable[..., Any]:
    """``async with served(AGENT, name=Backend) as http``: a client of an agent.yaml on backends of a test.

    The text needs no ``output``.
    """

    @asynccontextmanager
    async def start(agent: str, **backends: Any) -> AsyncIterator[httpx.AsyncClient]:
        class Backends:
            @hookimpl
            def grpo_backends(self) -> dict[str, Any]:
                return backends

        path = tmp_path / "agent.yaml"
        path.write_text(f"{agent}output: {tmp_path / 'runs'}\n")
        registry = load_plugins()
        registry.register(Backends(), "test-backends")
        loaded = load_config(path)
        app = create_app(ServerSettings.of(loaded, state=tmp_path / "state"), registry, loaded=loaded)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                yield http

    return start


@pytest.fixture
def listening(serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``async with listening(...) as (server, url)``: over a real socket, as ``grpo-host serve`` listens;
    ``/ws`` says back what it hears."""
    monkeypatch.setattr("grpo_host.serving.server.logging_config", lambda: None)  # it would outlast the test

    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[tuple[Server, str]]:
        options.setdefault("port", 0)
        options.setdefault("websocket_routes", [SocketEndpoint("/ws", echo, Scope.CHAT, "Echo")])
        async with serving(**options) as server:
            config = _config(server.services.settings, server.app)
            config.lifespan = "off"
            runner = uvicorn.Server(config)
            listener = _listen(server.services.settings)
            port = listener.getsockname()[1]
            task = asyncio.create_task(runner._serve([listener]))
            while not runner.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            try:
                yield server, f"ws://127.0.0.1:{port}/ws"
            finally:
                runner.should_exit = True
                await task

    return start

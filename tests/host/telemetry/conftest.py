"""A small server whose telemetry ends in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from grpo_host.agents.agent import Agent
from grpo_host.telemetry.server import ServerTelemetry
from grpo_sdk import Strategy, user
from grpo_sdk.testing import ScriptedBackend


class WatchedServer:
    """A Starlette app with telemetry that ends in memory."""

    def __init__(self, **providers: Any) -> None:
        self.telemetry = ServerTelemetry(**providers)
        agent = Agent(
            ScriptedBackend(replies=["Hello."]),
            strategy=Strategy("sales"),
            instruments=self.telemetry.instruments,
        )

        async def chat(request: Request) -> Response:
            message = await agent.open(id="c").act([user("Hi")])
            return JSONResponse(message)

        async def status(request: Request) -> Response:
            return PlainTextResponse(request.query_params.get("key", ""))

        async def broken(request: Request) -> Response:
            raise RuntimeError("the password is hunter2")

        async def seen(request: Request) -> Response:
            self.seen = trace.get_current_span().get_span_context()
            self.shown = self.telemetry.metrics()[0].decode()
            return PlainTextResponse("ok")

        async def socket(websocket: WebSocket) -> None:
            await websocket.accept()
            async for message in websocket.iter_json():
                with self.telemetry.message(message["type"], message):
                    answer = await agent.open(id="c").act([user("Hi")])
                    await websocket.send_json(answer)

        async def named(scope: Any, receive: Any, send: Any) -> None:
            async def with_id(message: Any) -> None:
                message.get("headers", []).append((b"x-request-id", b"r-1"))
                await send(message)

            await app(scope, receive, with_id)

        app = Starlette(
            routes=[
                Route("/api/chat", chat, methods=["POST"]),
                Route("/api/status/{job_id}", status),
                Route("/broken", broken),
                Route("/seen", seen),
                Route("/health/live", seen),
                Route("/metrics", seen),
                WebSocketRoute("/ws", socket),
            ]
        )
        self.telemetry.start()
        watched = self.telemetry.app(named)

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            await watched({**scope, "app": app}, receive, send)

        self.app = outer
        self.client = TestClient(self.app)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def watched_server() -> type[WatchedServer]:
    """Makes one with the providers that it is given; close its ``telemetry``."""
    return WatchedServer


@pytest.fixture
def server(telemetry: Any) -> Iterator[WatchedServer]:
    """One whose spans, metrics and events end in ``telemetry``."""
    made = WatchedServer(**telemetry.providers)
    yield made
    made.telemetry.close()

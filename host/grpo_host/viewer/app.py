"""The viewer as an ASGI app: its page, the API beside it, and who may ask."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grpo_host.viewer.endpoints import Endpoints, json_answer
from grpo_host.viewer.files import FOLDER, POLICY
from grpo_host.viewer.viewed import Viewed
from grpo_sdk.errors import BusyError, ConfigError, GrpoError

COOKIE = "grpo_viewer"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SAFE = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Headers of every answer."""


def create_app(
    runs_dir: Path | Sequence[Path], token: str | None = None, trace_url: str | None = None
) -> Starlette:
    """The viewer of the runs in ``runs_dir``.

    With ``token``, only who opens ``/?token=...`` on this machine gets in; without, whoever mounts the app
    asks who comes. ``trace_url``: where a trace can be looked at, with ``{trace_id}`` in it.
    """
    viewed = Viewed([runs_dir] if isinstance(runs_dir, Path) else runs_dir, trace_url)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(viewed.close)

    page = StaticFiles(directory=str(FOLDER), html=True)
    return Starlette(
        routes=[*Endpoints(viewed).routes(), Mount("/", page)],
        middleware=[Middleware(_Safe), *([Middleware(_Token, token=token)] if token else [])],
        exception_handlers={HTTPException: _refused, GrpoError: _failed},
        lifespan=lifespan,
    )


async def _refused(_: Request, problem: Exception) -> Response:
    status = problem.status_code if isinstance(problem, HTTPException) else 500
    return json_answer({"error": str(getattr(problem, "detail", problem))}, status)


async def _failed(_: Request, problem: Exception) -> Response:
    status = 503 if isinstance(problem, BusyError) else 400 if isinstance(problem, ConfigError) else 404
    return json_answer({"error": str(problem)}, status)


class _Safe:
    """ASGI middleware: headers that keep what a model wrote from becoming more than text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode()) for name, value in SAFE.items()),
                ]
            await send(message)

        await self._app(scope, receive, safe)


class _Token:
    """ASGI middleware: lets in who was given the address with the token, by a cookie from then on."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        await self._answer(request, scope)(scope, receive, send)

    def _answer(self, request: Request, scope: Scope) -> ASGIApp:
        if not _on_this_machine(Headers(scope=scope)):
            return json_answer({"error": "the viewer goes by 127.0.0.1 or localhost alone"}, 400)
        given = request.query_params.get("token")
        if given is not None and self._is_right(given) and request.method == "GET":
            answer = RedirectResponse(".", 303)
            answer.set_cookie(f"{COOKIE}_{request.url.port}", self._token, httponly=True, samesite="strict")
            return answer
        header = request.headers.get("authorization", "").removeprefix("Bearer ")
        cookie = request.cookies.get(f"{COOKIE}_{request.url.port}", "")
        if self._is_right(cookie) or self._is_right(header):
            return self._app
        return json_answer({"error": "open the address that grpo-host view has printed, with its token"}, 401)

    def _is_right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _on_this_machine(headers: Headers) -> bool:
    """Whether the Host header names this machine: a rebound name of another site does not."""
    host = headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name in LOOPBACK

"""Who calls. Whatever is not in ``PUBLIC`` is refused without a valid key."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.serving.access.caller import ANONYMOUS, Key, Scope
from grpo_host.serving.http.endpoint import PUBLIC

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as AsgiScope

    from grpo_host.serving.services import Services

KEY = "grpo_key"
"""Where the caller's ``Key`` stands in the ASGI scope."""
METRICS = ("GET", "/metrics")
SCRAPER = Key("", "metrics", frozenset({Scope.ADMIN}), "")
"""Whoever asks for ``METRICS`` alone, if ``public_metrics`` lets anyone."""
REFUSED_KEY = "grpo_refused_key"
"""In the ASGI scope: the ``Key`` that was given and is no longer valid; for the log."""
FIRST_MESSAGE_SECONDS = 5.0
PROTOCOL = "grpo"
"""The WebSocket subprotocol that browsers name beside ``bearer.<key>``, since one must be chosen."""

_FORWARDED = (
    b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"
)  # fmt: skip


class Authentication:
    """ASGI middleware: the key of every HTTP request, from ``scope["path"]`` and its headers alone.

    WebSockets authenticate in ``authenticate_websocket``, since their key may come in a message.
    """

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._open_metrics = services.settings.public_metrics

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            if (method, scope["path"]) in PUBLIC:
                scope[KEY] = None
            elif self._open_metrics and (method, scope["path"]) == METRICS:
                scope[KEY] = SCRAPER
            else:
                key = await identify(scope, self._services)
                if key is None:
                    raise unauthorized("this needs a key: send the header Authorization: Bearer <key>")
                scope[KEY] = key
                await self._services.rates.count(key)
        await self._app(scope, receive, send)


async def identify(scope: AsgiScope, services: Services) -> Key | None:
    """The key in the Authorization header, or the anonymous one if it may be; None without any.

    Raises ``ApiError``: 401 for a wrong one, 429 for too many of them from one address.
    """
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if not await services.keys.any_exist():
        return _anonymous(scope, services)
    if not given:
        await _count_failure(scope, services)
        return None
    scheme, _, token = given[0].decode("latin-1").partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer":
        await _count_failure(scope, services)
        raise unauthorized("send one header Authorization: Bearer <key>")
    return await verify(token.strip(), scope, services)


async def verify(token: str, scope: AsgiScope, services: Services) -> Key:
    """Whose ``token`` it is. Raises ``ApiError``."""
    # Many share the address of a proxy: what others do wrong there locks no valid key out, and yet
    # cannot keep the database busy.
    crowded = not services.keys.remembered(token) and await services.rates.has_failed(_address(scope))
    async with services.keys.one_at_a_time if crowded else nullcontext():
        key = await services.keys.verify(token)
    if key is None:
        refused = await services.keys.refused(token)
        if refused is not None:
            scope[REFUSED_KEY] = refused[0]
        await _count_failure(scope, services)
        if refused is None:
            raise unauthorized("this key is not valid")
        raise unauthorized(f"this key {refused[1]}")
    return key


def require(key: Key | None, scope: Scope) -> Key:
    """``key``, which has ``scope``. Raises ``ApiError``."""
    if key is None:
        raise unauthorized("this needs a key: send the header Authorization: Bearer <key>")
    if not key.may(scope):
        raise ApiError(403, "forbidden", f'this needs a key with the scope "{scope}"')
    return key


def unauthorized(message: str) -> ApiError:
    return ApiError(401, "unauthorized", message)


async def _count_failure(scope: AsgiScope, services: Services) -> None:
    await services.rates.refuse_after_failures(_address(scope))
    await services.rates.count_failure(_address(scope))


def _address(scope: AsgiScope) -> str:
    client = scope.get("client")
    return client[0] if client else "unknown"


def _anonymous(scope: AsgiScope, services: Services) -> Key | None:
    """Nobody has made a key: who is on this machine may do everything, and nobody else anything.

    Not what another machine sends through a proxy on this one, nor another site's page in a browser.
    """
    if not (services.settings.on_loopback and is_loopback(_address(scope))):
        return None
    if any(name in _FORWARDED for name, _ in scope["headers"]):
        return None
    headers = Headers(scope=scope)
    if not origin_allowed(headers, services.settings.allowed_origins):
        raise ApiError(403, "forbidden", "pages of other origins may not call this server")
    return ANONYMOUS


def origin_allowed(headers: Headers, allowed: list[str]) -> bool:
    """Whether a browser sends this for a page of the server itself or of an allowed origin.

    Clients that are no browsers send no origin.
    """
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    return origin in allowed or urlsplit(origin).netloc == headers.get("host")


@lru_cache(4096)
def is_address(text: str) -> bool:
    """Whether ``text`` is an IP address; a test's client or a Unix socket has none."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(4096)
def is_loopback(text: str) -> bool:
    """Whether ``text`` is an address that only this machine has."""
    return is_address(text) and ipaddress.ip_address(text).is_loopback


async def authenticate_websocket(
    websocket: WebSocket,
    services: Services,
    scope: Scope,
    without_key: Callable[[], AbstractContextManager[None]],
) -> Key:
    """The key of a WebSocket. Raises ``ApiError``.

    The key comes in the Authorization header, as the subprotocol ``bearer.<key>`` beside ``grpo``, or
    in the first message ``{"type": "auth", "data": {"key": "..."}}``, within five seconds: the socket is
    accepted for that, and while it is waited for, ``without_key`` is entered.
    """
    if not origin_allowed(websocket.headers, services.settings.allowed_origins):
        raise ApiError(403, "forbidden", "pages of other origins may not call this server")
    protocols = websocket.scope.get("subprotocols", [])
    token = next((p.removeprefix("bearer.") for p in protocols if p.startswith("bearer.")), None)
    anonymous = not await services.keys.any_exist()
    if anonymous or "authorization" in websocket.headers:
        return require(await identify(websocket.scope, services), scope)
    if token is not None:
        return require(await verify(token, websocket.scope, services), scope)
    with without_key():
        await accept(websocket)
        return require(await _first_message(websocket, services), scope)


async def accept(websocket: WebSocket) -> None:
    """Accept it, with the one subprotocol that there is if the client names it."""
    await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope.get("subprotocols", []) else None)


async def _first_message(websocket: WebSocket, services: Services) -> Key:
    asked = unauthorized('send {"type": "auth", "data": {"key": "<key>"}} first')
    try:
        async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
            message: Any = orjson.loads(await websocket.receive_text())
        token = message["data"]["key"] if message["type"] == "auth" else None
    except (TimeoutError, orjson.JSONDecodeError, KeyError, TypeError):
        token = None
    if not isinstance(token, str):
        await _count_failure(websocket.scope, services)
        raise asked
    return await verify(token, websocket.scope, services)


async def refuse_websocket(websocket: WebSocket, error: ApiError) -> None:
    """Answer the handshake with the error's status, or close what was accepted."""
    if websocket.application_state is WebSocketState.CONNECTED:
        message = {"type": "error", "data": {"code": error.code, "message": error.message}}
        try:
            await websocket.send_text(orjson.dumps(message).decode())
            await websocket.close(1013 if error.status in (429, 503) else 1008, error.code)
        except (WebSocketDisconnect, RuntimeError, OSError):
            return  # gone already
    elif "websocket.http.response" in websocket.scope.get("extensions", {}):
        from grpo_host.serving.http.errors import render

        response: Response = render(
            error, websocket.scope["path"], websocket.scope.get("grpo_request_id", "")
        )
        await websocket.send_denial_response(response)
    else:
        await websocket.close(1008, error.code)

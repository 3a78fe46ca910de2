"""What every request passes through: its id, its host, and how its answer is made safe."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware
from starlette.websockets import WebSocket, WebSocketDisconnect

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.serving.access.auth import KEY, REFUSED_KEY, is_address, is_loopback, refuse_websocket
from grpo_host.serving.access.caller import Key
from grpo_host.serving.http.errors import answered, render
from grpo_host.serving.http.unread_limit import ClientGoneError, within
from grpo_host.serving.settings import LOOPBACK, ServerSettings
from grpo_host.utils.redaction import redact
from grpo_sdk.errors import GrpoError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from grpo_host.serving.http.traffic import Traffic

logger = logging.getLogger("grpo_host.serving")
access = logging.getLogger("grpo_host.serving.access")

REQUEST_ID = "grpo_request_id"
STATUS = "grpo_status"
"""In the ASGI scope: of the answer that was begun; 0 before."""
CROWDED = "grpo_crowded"
"""In the ASGI state of a request whose connection is beyond the limit: it is told so, unless it probes."""
CLIENT_GONE = 499
"""What is logged if nobody was left to answer, as nginx has it."""
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{8,128}")

SAFE = (
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
)
"""Headers of every answer that does not set them itself."""

_SAFE = [(name.encode(), value.encode()) for name, value in SAFE]


class Envelope:
    """ASGI middleware, the outermost: gives each request an id, says errors, keeps the access log."""

    def __init__(self, app: ASGIApp, traffic: Traffic, allowed_origins: Sequence[str] = ()) -> None:
        self._app = app
        self._traffic = traffic
        # Around the errors too: a page may read only what allows its origin.
        self._answered: ASGIApp = (
            _cors(self._or_error, allowed_origins) if allowed_origins else self._or_error
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_id = scope[REQUEST_ID] = _request_id(scope)
        send = within(send)
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        began = time.perf_counter()
        scope[STATUS] = 0

        async def enveloped(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope[STATUS] = message["status"]
                _add_headers(message, request_id)
                if _is_crowded(scope):
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._answered(scope, receive, enveloped)
        except ClientGoneError:
            return
        finally:
            seconds, status = time.perf_counter() - began, scope[STATUS] or CLIENT_GONE
            self._traffic.count(status, seconds)
            if access.isEnabledFor(logging.INFO):
                _log_access(scope, status, seconds)

    async def _or_error(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            _refuse_crowd(scope)
            await self._app(scope, receive, send)
        except ClientGoneError:
            raise
        except Exception as problem:
            error = _as_error(problem, scope[REQUEST_ID])
            if scope[STATUS] == 0:
                await render(error, scope["path"], scope[REQUEST_ID])(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except (ClientGoneError, WebSocketDisconnect):
            return
        except Exception as problem:
            _as_error(problem, scope[REQUEST_ID])
            await send({"type": "websocket.close", "code": 1011, "reason": "internal_error"})


class TrustedHosts:
    """ASGI middleware: refuses requests whose Host header names another server, as rebound names do.

    Unless it is told which names are good, it asks only if the connection comes over loopback, as a
    browser's does that was led here: from elsewhere nobody is served without a key anyway.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._told = bool(settings.allowed_hosts)
        allowed = {host.lower() for host in settings.allowed_hosts or (*LOOPBACK, settings.host)}
        self._any = "*" in allowed or (not self._told and settings.host in EVERYWHERE)
        self._exact = {host for host in allowed if not host.startswith("*.")}
        self._below = tuple(host[1:] for host in allowed if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and not self._allows(scope):
            error = ApiError(400, "unknown_host", "this server does not go by the name in the Host header")
            if scope["type"] == "websocket":
                await refuse_websocket(WebSocket(scope, receive, send), error)
                return
            raise error
        await self._app(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        if self._any or scope["path"] in PROBES:
            return True
        server = scope.get("server")
        if not self._told and server and is_address(server[0]) and not is_loopback(server[0]):
            return True
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1:
            return False
        host = _without_port(hosts[0].lower())
        return host in self._exact or host.endswith(self._below or ("\0",))


EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
PROBES = ("/health", "/health/live", "/health/ready")
"""An orchestrator asks these by address; they tell nothing."""


def _cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """``app``, which pages of ``origins`` may ask."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        # OpenAI's client sends a dozen of its own. A key is never sent by a browser by itself, so headers
        # give a page nothing that it has not.
        allow_headers=["*"],
        allow_private_network=True,  # an origin that is listed may be a public page
        expose_headers=["x-request-id", "retry-after"],
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_crowded(scope: Scope) -> bool:
    return CROWDED in scope.get("state", ())


def _refuse_crowd(scope: Scope) -> None:
    if _is_crowded(scope) and scope["path"] not in PROBES:
        raise ApiError(503, "overloaded", "too many open connections; try again later", retry_after=5.0)


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
    if given is not None and _GIVEN_ID.fullmatch(given) and not given.startswith(b"grpo_"):
        return str(given, "ascii")
    return uuid.uuid4().hex


def _add_headers(message: Message, request_id: str) -> None:
    headers = message.setdefault("headers", [])
    if not isinstance(headers, list):
        headers = message["headers"] = list(headers)
    present = {name for name, _ in headers}
    headers.append((b"x-request-id", request_id.encode()))
    headers.extend(pair for pair in _SAFE if pair[0] not in present)


def _as_error(problem: Exception, request_id: str) -> ApiError:
    """What is said of ``problem``; what nobody expected is logged, and not told."""
    if isinstance(problem, GrpoError):
        return answered(problem, f"request {request_id}")
    logger.error("request %s failed", request_id, exc_info=problem)
    return ApiError(500, "internal_error", "something went wrong here; it is logged with the request id")


def _log_access(scope: Scope, status: int, seconds: float) -> None:
    access.info(
        "%s %s %d %.1fms key=%s request=%s",
        scope["method"],
        _path(scope),
        status,
        seconds * 1000,
        _who(scope),
        scope[REQUEST_ID],
    )


def log_refused_socket(scope: Scope, error: ApiError) -> None:
    """Say which key was refused, or asked too much, over a WebSocket: HTTP requests are logged each."""
    access.info(
        "WEBSOCKET %s %d %s key=%s request=%s",
        _path(scope),
        error.status,
        error.code,
        _who(scope),
        scope[REQUEST_ID],
    )


def _path(scope: Scope) -> str:
    path: str = redact(scope["path"])
    return path if path.isprintable() else ascii(path)


def _who(scope: Scope) -> str:
    """The key's name and id, also of one that is refused; nothing of a token that is no key."""
    key: Key | None = scope.get(KEY) or scope.get(REFUSED_KEY)
    return "-" if key is None else f"{key.name!r} ({key.id})"

"""From a matched route to its handler: scope, body, place, answer, and the client's going away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from grpo_host.openai_protocol.errors import ApiError, invalid
from grpo_host.serving.access.auth import KEY, accept, authenticate_websocket, refuse_websocket, require
from grpo_host.serving.access.caller import NOBODY, Key
from grpo_host.serving.http.admission import WebSocketLimit
from grpo_host.serving.http.endpoint import Call, Endpoint, SocketEndpoint
from grpo_host.serving.http.middleware import REQUEST_ID, log_refused_socket
from grpo_host.serving.http.surrogates import whole_json
from grpo_host.serving.http.unread_limit import ClientGoneError

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from grpo_host.serving.services import Services

BODY_SECONDS = 30.0
"""How long a client may take to send a body."""


class EndpointApp:
    """ASGI app of one path: its endpoints by method."""

    def __init__(self, endpoints: Sequence[Endpoint], services: Services) -> None:
        self._services = services
        self.endpoints = {endpoint.method: endpoint for endpoint in endpoints}
        self._allow = ", ".join(sorted(self.endpoints))
        if "GET" in self.endpoints:
            self.endpoints["HEAD"] = self.endpoints["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self.endpoints.get(scope["method"])
        if endpoint is None:
            raise ApiError(
                405,
                "method_not_allowed",
                "this path does not take this method",
                headers={"allow": self._allow},
            )
        if endpoint.scope is None:
            await self._answer(endpoint, NOBODY, scope, receive, send)
            return
        # Again, though the middleware has asked: a mistake there must not open this.
        key = require(scope.get(KEY), endpoint.scope)
        admission = self._services.admission
        admission.refuse_while_draining()
        with admission.tracked():
            try:
                await self._answer(endpoint, key, scope, receive, send)
            except (ClientGoneError, ClientDisconnect):
                return
            except asyncio.CancelledError:
                if not admission.cuts():
                    raise
                admission.refuse_while_draining()

    async def _answer(self, endpoint: Endpoint, key: Key, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._services
        body = await _read_body(endpoint, scope, receive, services.settings.max_body_bytes)
        request = Request(scope, receive)
        call = Call(request, services, key, scope[REQUEST_ID], body, _query(endpoint, request))
        async with _watched(receive) as gone, AsyncExitStack() as place:
            if endpoint.takes_slot and key is not NOBODY:
                await place.enter_async_context(services.admission.place(key))
            response = _to_response(endpoint, await endpoint.handler(call))
            if not _streams(response):
                await place.aclose()  # the work is done, however slowly it is read
            # The client's going away is noticed here, once, and not by Starlette again.
            scope["asgi"] = {**scope.get("asgi", {}), "spec_version": "2.4"}
            try:
                await response(scope, gone, send)
            finally:
                if _streams(response):
                    await _close_stream(response)


class SocketApp:
    """ASGI app of a WebSocket: nothing but the handshake happens before the key is known."""

    def __init__(self, endpoint: SocketEndpoint, services: Services) -> None:
        self.endpoint = endpoint
        self._services = services
        self._limit = WebSocketLimit(services.settings.max_websockets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        admission = self._services.admission
        try:
            admission.refuse_while_draining()
            with admission.tracked():
                await self._serve(websocket)
        except ApiError as error:
            log_refused_socket(scope, error)
            await refuse_websocket(websocket, error)

    async def _serve(self, websocket: WebSocket) -> None:
        try:
            key = await authenticate_websocket(
                websocket, self._services, self.endpoint.scope, self._limit.without_key
            )
            websocket.scope[KEY] = key
            with self._limit.with_key(key):
                if websocket.application_state is WebSocketState.CONNECTING:
                    await accept(websocket)
                await self.endpoint.handler(websocket, key, self._services)
        except WebSocketDisconnect:
            return
        except asyncio.CancelledError:
            if not self._services.admission.cuts():
                raise
            if websocket.application_state is WebSocketState.CONNECTED:
                with suppress(WebSocketDisconnect, RuntimeError, OSError):  # gone, or closed, already
                    await websocket.close(1001, "shutting_down")


async def _read_body(endpoint: Endpoint, scope: Scope, receive: Receive, limit: int) -> BaseModel | None:
    """The validated body; without a ``request`` model whatever comes is read and dropped."""
    raw = await _read(scope, receive, limit)
    if endpoint.request is None:
        return None
    content_type = next((v for n, v in scope["headers"] if n == b"content-type"), b"")
    if not raw:
        raise ApiError(400, "invalid_json", "a JSON body is needed")
    if content_type.partition(b";")[0].strip().lower() != b"application/json":
        raise ApiError(415, "unsupported_media_type", "send the body as Content-Type: application/json")
    text = whole_json(raw)
    try:
        return endpoint.request.model_validate_json(text, strict=True)
    except ValidationError as problem:
        raise invalid(problem, _invalid_status(scope), endpoint.request, text) from None


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes:
    declared = next((v for n, v in scope["headers"] if n == b"content-length"), b"0")
    if not declared.isdigit() or int(declared) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > limit:
                    raise _too_large(limit)
                more = message.get("more_body", False)
    except TimeoutError:
        raise ApiError(408, "timeout", "the body took too long to come") from None
    return b"".join(chunks)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413, "too_large", f"the body is larger than {limit} bytes", headers={"connection": "close"}
    )


def _query(endpoint: Endpoint, request: Request) -> BaseModel | None:
    if endpoint.query is None:
        return None
    status = _invalid_status(request.scope)
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        wrong = "give it once" if name in values else "there is no such parameter"
        if name in values or name not in endpoint.query.model_fields:
            raise ApiError(status, "invalid_request", f"{name[:200]}: {wrong}", param=name[:200])
        values[name] = value
    try:
        return endpoint.query.model_validate(values)
    except ValidationError as problem:
        raise invalid(problem, status, endpoint.query) from None


def _invalid_status(scope: Scope) -> int:
    """OpenAI says 400 of a request that is JSON and yet wrong."""
    return 400 if scope["path"].startswith("/v1/") else 422


def _to_response(endpoint: Endpoint, result: BaseModel | Response) -> Response:
    if isinstance(result, Response):
        return result
    content = result.model_dump_json(exclude_none=endpoint.exclude_none, by_alias=True).encode()
    return Response(content, endpoint.status, media_type="application/json")


@asynccontextmanager
async def _watched(receive: Receive) -> AsyncIterator[Receive]:
    """While inside, the client's going away cancels the current task and raises ``ClientGoneError``.

    Gives a ``receive`` for what else wants to know.
    """
    task = asyncio.current_task()
    left = asyncio.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()
        if task is not None and not done:
            task.cancel()

    async def gone() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    done = False
    watcher = asyncio.create_task(watch())
    try:
        yield gone
    except asyncio.CancelledError:
        if left.is_set() and task is not None and task.uncancel() == 0:
            raise ClientGoneError from None
        raise
    finally:
        done = True
        watcher.cancel()


def _streams(response: Response) -> bool:
    return hasattr(response, "body_iterator")


async def _close_stream(response: Any) -> None:
    """A stream that was cut short ends now, not when it is collected."""
    close = getattr(response.body_iterator, "aclose", None)
    if close is not None:
        await close()

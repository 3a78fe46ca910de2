"""``/ws``: several conversations over one socket.

The client sends ``{"type": "chat", "data": {"message": ..., "conversation_id": ..., "stream": true}}``,
with an ``id`` of its own if it likes; each is answered by any number of ``chat_delta`` and one
``chat_response`` or ``error`` with the same ``id``. ``{"type": "cancel", "id": ...}`` ends an answer,
``{"type": "ping"}`` is answered by ``pong``.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from grpo_host.openai_protocol.errors import ApiError, invalid
from grpo_host.openai_protocol.tool_runs import ToolRun
from grpo_host.serving.access.auth import unauthorized
from grpo_host.serving.access.caller import Key, Scope
from grpo_host.serving.api.chat import ChatRequest
from grpo_host.serving.http.admission import shutting_down
from grpo_host.serving.http.endpoint import SocketEndpoint
from grpo_host.serving.http.errors import answered
from grpo_host.serving.http.middleware import log_refused_socket
from grpo_host.serving.http.surrogates import whole_json
from grpo_sdk.errors import GrpoError

if TYPE_CHECKING:
    from grpo_host.serving.services import Services

logger = logging.getLogger("grpo_host.serving")

CUT_SECONDS = 1.0
"""For telling of all answers that the server's end has cut."""
MOST_AT_ONCE = 8
"""Messages of one socket that are answered at once."""

Id = Annotated[str, Field(max_length=200)] | Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Incoming(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["chat", "cancel", "ping", "auth"]
    id: Id | None = None
    data: dict[str, Any] | None = None
    traceparent: Annotated[str, Field(max_length=200)] | None = None
    tracestate: Annotated[str, Field(max_length=1000)] | None = None


def websocket_routes() -> list[SocketEndpoint]:
    return [SocketEndpoint("/ws", serve, Scope.CHAT, "Conversations over a WebSocket")]


async def serve(websocket: WebSocket, key: Key, services: Services) -> None:
    """Answer until the client leaves or the server ends."""
    socket = _Socket(websocket, key, services)
    ending = asyncio.create_task(services.draining.wait())
    hearing = asyncio.create_task(socket.hear())
    reading = asyncio.create_task(socket.unread.wait())
    tasks = {ending, hearing, reading}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if hearing.done():
            await hearing
        elif ending.done():
            await socket.finish()
            await websocket.close(1001, "shutting_down")
    finally:
        for task in tasks:
            task.cancel()
        await socket.stop()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Socket:
    """One client's messages, each answered in a task of its own."""

    def __init__(self, websocket: WebSocket, key: Key, services: Services) -> None:
        self._websocket = websocket
        self._key = key
        self._services = services
        self._answers: dict[asyncio.Task[None], Id | None] = {}
        self._sending = asyncio.Lock()
        self.unread = asyncio.Event()
        """The client does not read what it is sent."""

    async def hear(self) -> None:
        """Take messages until the client leaves."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                await self._take(message)
            except ApiError as problem:
                await self._fail(problem, None)

    async def _take(self, message: Any) -> None:
        try:
            incoming = self._read(message.get("text"))
        except ApiError:
            await self._services.rates.count(self._key)
            raise
        if incoming.type != "chat":
            await self._services.rates.count(self._key)
        if incoming.type == "ping":
            await self._send({"type": "pong"}, incoming.id)
        elif incoming.type == "cancel":
            await self._cancel(incoming.id)
        elif incoming.type == "chat":
            await self._begin(incoming)

    def _read(self, text: str | None) -> Incoming:
        if text is None:
            raise ApiError(400, "invalid_request", "messages are JSON texts, not bytes")
        raw = text.encode("utf-8", "replace")
        if len(raw) > self._services.settings.max_message_bytes:
            raise ApiError(413, "too_large", "the message is too large")
        try:
            return Incoming.model_validate_json(whole_json(raw), strict=True)
        except ValidationError as problem:
            raise invalid(problem, 400, Incoming) from None

    async def _begin(self, incoming: Incoming) -> None:
        if len(self._answers) >= MOST_AT_ONCE:
            problem = ApiError(
                429,
                "too_many_at_once",
                f"{MOST_AT_ONCE} messages of this socket are being answered",
                retry_after=1.0,
            )
            await self._fail(problem, incoming.id)
            return
        task = asyncio.create_task(self._answer(incoming))
        self._answers[task] = incoming.id
        task.add_done_callback(lambda done: self._answers.pop(done, None))

    async def _cancel(self, wanted: Id | None) -> None:
        tasks = [task for task, known in self._answers.items() if known is not None and known == wanted]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if any(task.cancelled() for task in tasks):
            await self._fail(ApiError(499, "cancelled", "the answer was cancelled"), wanted)

    async def _answer(self, incoming: Incoming) -> None:
        # Telling of a failure fails too if the client has gone.
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._chat_or_tell(incoming)

    async def _chat_or_tell(self, incoming: Incoming) -> None:
        telemetry = self._services.telemetry
        carrier = incoming.model_dump(include={"traceparent", "tracestate"}, exclude_none=True)
        try:
            with telemetry.message("chat", carrier) if telemetry is not None else nullcontext():
                await self._chat(incoming)
        except GrpoError as problem:
            error = answered(problem, "an answer over a WebSocket")
            await self._fail(error, incoming.id)
            if error.status == 401:
                await self._websocket.close(1008, error.code)
        except WebSocketDisconnect:
            raise
        except Exception:
            logger.exception("an answer over a WebSocket failed")
            await self._fail(ApiError(500, "internal_error", "the answer failed"), incoming.id)

    async def _chat(self, incoming: Incoming) -> None:
        services = self._services
        if not await services.keys.valid(self._key):
            raise unauthorized("this key is not valid any more")
        await services.rates.count(self._key)
        try:
            request = ChatRequest.model_validate(incoming.data or {}, strict=True)
        except ValidationError as problem:
            raise invalid(problem, 400, ChatRequest) from None
        async with (
            services.admission.place(self._key),
            services.chat.open(request.turn(), self._key) as opened,
        ):
            runs: list[ToolRun] = []
            about: dict[str, Any] = {"conversation_id": opened.conversation_id, "strategy": opened.strategy}
            if request.stream:
                text = ""
                async for piece in opened.pieces():
                    if isinstance(piece, str):
                        text += piece
                        delta = {"delta": piece, **about}
                        await self._send({"type": "chat_delta", "data": delta}, incoming.id)
                    else:
                        runs = piece.tool_runs
            else:
                answer = await opened.answer()
                text, runs = answer.text, answer.tool_runs
        about["tool_runs"] = [run.model_dump() for run in runs]
        await self._send({"type": "chat_response", "data": {"response": text, **about}}, incoming.id)

    async def _fail(self, problem: ApiError, id: Id | None) -> None:
        if problem.status in (401, 429):
            log_refused_socket(self._websocket.scope, problem)
        data: dict[str, Any] = {"code": problem.code, "message": problem.message}
        if problem.retry_after is not None:
            data["retry_after"] = problem.retry_after
        await self._send({"type": "error", "data": data}, id)

    async def _send(self, message: dict[str, Any], id: Id | None) -> None:
        """One message at a time; a client that does not read holds its own answers back."""
        if id is not None:
            message["id"] = id
        text = orjson.dumps(message).decode()
        async with self._sending:
            if self._websocket.application_state is not WebSocketState.CONNECTED:
                raise WebSocketDisconnect(1006)
            try:
                await self._websocket.send_text(text)
            except WebSocketDisconnect:
                self.unread.set()
                raise

    async def finish(self) -> None:
        """Let what is being answered end; the server's drain bounds it."""
        if self._answers:
            await asyncio.wait(list(self._answers))

    async def stop(self) -> None:
        """Cancel what is being answered."""
        answers = dict(self._answers)
        for task in answers:
            task.cancel()
        await asyncio.gather(*answers, return_exceptions=True)
        if self._services.draining.is_set():
            with suppress(WebSocketDisconnect, RuntimeError):  # the client has gone, or does not read
                async with asyncio.timeout(CUT_SECONDS):
                    for id in answers.values():
                        await self._fail(shutting_down(), id)

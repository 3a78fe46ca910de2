"""uvicorn's protocols with limits for clients without a key: on heads, requests ahead, connections, frames.

What a client leaves unread is limited elsewhere: by the kernel (``server.listen``) and, for what an app
sends, by ``unread_limit``. A reverse proxy before the server limits more, and earlier.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode

from grpo_host.serving.http.middleware import CROWDED

if TYPE_CHECKING:
    from uvicorn import Config

HEAD_BYTES = 64 * 1024
"""Of a request line and headers, of trailers, and of what stands between the chunks of a body."""
HEAD_SECONDS = 15.0
"""For a head, and for the rest of a body whose request has been answered."""
RESERVE = 32
"""Connections beyond the limit that are answered, so that a full server can say so."""
MAX_BACKLOG = 512
"""Messages of one WebSocket that wait for the app, and fragments of one message."""


class _CutAtTheEnd:
    """Aborts the connection a second before uvicorn gives up waiting for it: uvloop would wait on."""

    config: Config
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    def shutdown(self) -> None:
        super().shutdown()  # type: ignore[misc]  # uvicorn's protocols have it
        seconds = self.config.timeout_graceful_shutdown
        if seconds is not None:
            self.loop.call_later(max(0, seconds - 1), self.transport.abort)


class BoundedProtocol(_CutAtTheEnd, HttpToolsProtocol):
    """HTTP: closes a connection whose head is too long or too late; answers one request at a time.

    A request that comes before the one ahead of it is answered is dropped, and the connection is closed
    after that answer; HTTP lets a client expect that. Beyond uvicorn's ``limit_concurrency`` a new
    connection finds ``CROWDED`` in its requests' state, and beyond ``RESERVE`` more it is cut.
    """

    _incomplete = False
    """A request has begun to come and is not whole."""
    _ahead = False
    """A request came before the one ahead of it was answered."""
    _head_bytes = 0
    """How many bytes came since the last that belonged to a whole head or to a body."""
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.limit_concurrency is not None:
            beyond = len(self.connections) - self.limit_concurrency
            self.limit_concurrency = None
            if beyond > RESERVE:
                transport.abort()
                return
            if beyond > 0:
                self.app_state = {**self.app_state, CROWDED: True}
                self.ws_protocol_class = None  # a handshake is told the same as any request
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ahead:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > HEAD_BYTES:
            self.transport.close()
        elif self._incomplete and not self._answering and self._head_timer is None:
            self._start_head_timer()

    def on_message_begin(self) -> None:
        if self._answering:
            self._ahead, self.cycle.keep_alive = True, False
        if self._ahead or self.flow.write_paused:  # a WebSocket would not know that its client does not read
            self.ws_protocol_class = None
        self._incomplete = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        self._stop_head_timer()
        if not self._ahead:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if not self._ahead:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._incomplete, self._head_bytes = False, 0
        self._stop_head_timer()
        if not self._ahead:
            super().on_message_complete()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class BoundedWebSocket(_CutAtTheEnd, WebSocketsSansIOProtocol):
    """WebSocket: hears nothing of a client that does not read, and bounds what waits to be heard.

    uvicorn's answers pings however many there are, and keeps every message that comes at once. A text
    that is not UTF-8 closes the socket, without the traceback that uvicorn logs.
    """

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if max(self.queue.qsize(), len(self.frames)) > MAX_BACKLOG and not self.close_sent:
            self.conn.fail(CloseCode.POLICY_VIOLATION, "too many messages or fragments at once")
            self.handle_parser_exception()
        if not self.writable.is_set():
            self.transport.pause_reading()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.fail(CloseCode.INVALID_DATA, "a text is not UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    async def send(self, message: Any) -> None:
        if self.transport.is_closing():
            raise ClientDisconnected  # uvicorn would take it for the app's mistake
        await super().send(message)
        self.handshake_complete = self.handshake_complete or self.close_sent  # a refusal is no mistake either

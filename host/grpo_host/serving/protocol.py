"""uvicorn's protocols with limits that they have not: on heads, unread answers, connections and frames."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from grpo_host.serving import sending
from grpo_host.serving.middleware import CROWDED

if TYPE_CHECKING:
    from websockets.frames import Frame

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 15.0
LEAST_READ = 16 * 1024
"""What a client must read in half of ``SEND_SECONDS`` where more than that waits for it."""
RESERVE = 32
"""Connections beyond the limit that are answered, so that a full server can say so."""
CLOSE_SECONDS = 4.0
"""For connections that are still open when the server ends and everything has been drained."""
MOST_UNHEARD = 512
"""Messages of one WebSocket that wait, and fragments of one message."""


class Unread:
    """Aborts a connection whose client does not read what was written to it.

    A transport closes only when everything has been read, and asyncio waits for that without end. What
    waits can only shrink where no more is written: while writing is paused, or the transport closes.
    """

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _paused = False
    _waited: int | None = None
    """How much waited the last time, where nothing was written since."""
    _look_timer: asyncio.TimerHandle | None = None

    def watch_reading(self) -> None:
        self._look_timer = self.loop.call_later(sending.SEND_SECONDS / 2, self._look)

    def end_watching(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None

    def cut(self) -> None:
        self.client_is_gone()  # uvloop resumes writing before it says that the connection is lost
        self.transport.abort()

    def cut_at_the_end(self, seconds: float) -> None:
        """A connection that is still open in ``seconds`` would hold uvloop's end as long as its client."""
        self.loop.call_later(seconds, self.cut)

    def client_is_gone(self) -> None:
        """Nothing must be written any more."""
        raise NotImplementedError

    def writing_is_paused(self, paused: bool) -> None:
        self._paused, self._waited = paused, None

    def _look(self) -> None:
        if not (self._paused or self.transport.is_closing()):
            self._waited = None
        else:
            waits = self.transport.get_write_buffer_size()
            if waits and self._waited is not None and waits > self._waited - LEAST_READ:
                self.cut()
                return
            self._waited = waits
        self.watch_reading()


class BoundedProtocol(Unread, HttpToolsProtocol):
    """HTTP: also closes connections whose request line and headers are too long or take too long to come.

    Beyond uvicorn's ``limit_concurrency`` a new connection has one answer, with ``CROWDED`` in its scope.
    """

    _head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _crowded = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        most, self.limit_concurrency = self.limit_concurrency, None
        if most is not None:
            self._crowded = len(self.connections) > most
            if len(self.connections) > most + RESERVE:
                transport.abort()
                return
        self._start_timer()
        self.watch_reading()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head and self._head_bytes:
            if self._head_bytes > HEAD_BYTES:
                self._refuse()
            elif self._head_timer is None:
                self._start_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._crowded:
            cast("dict[str, Any]", self.scope)[CROWDED] = True

    def on_headers_complete(self) -> None:
        self._head = False
        self._stop_timer()
        super().on_headers_complete()
        if self._crowded:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._head, self._head_bytes = True, 0
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self.end_watching()  # the other protocol does
        super().handle_websocket_upgrade()

    def _should_upgrade(self) -> bool:
        return super()._should_upgrade() and not self._crowded

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writing_is_paused(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.writing_is_paused(False)

    def shutdown(self) -> None:
        super().shutdown()
        self.cut_at_the_end(CLOSE_SECONDS)

    def client_is_gone(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self.end_watching()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.close()


class BoundedWebSocket(Unread, WebSocketsSansIOProtocol):
    """WebSocket: also hears nothing of a client that does not read, and bounds what waits to be heard.

    uvicorn's answers pings however many there are, and keeps every message of a batch that has come.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.watch_reading()

    def shutdown(self) -> None:
        super().shutdown()
        self.cut_at_the_end(CLOSE_SECONDS)

    def client_is_gone(self) -> None:
        self.disconnected = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.end_watching()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writing_is_paused(True)
        self._hear(False)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.writing_is_paused(False)
        if not self.read_paused:
            self._hear(True)

    async def receive(self) -> Any:
        message = await super().receive()
        if self._paused:
            self._hear(False)
        return message

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self.disconnected = True  # else what the app sends then is taken for its mistake

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.disconnected = self.disconnected or self.close_sent

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MOST_UNHEARD:
            self._refuse("too many fragments")
        else:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        if self.queue.qsize() >= MOST_UNHEARD:
            self._refuse("too many messages at once")
        else:
            super().send_receive_event_to_app()

    def _hear(self, on: bool) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading() if on else self.transport.pause_reading()

    def _refuse(self, reason: str) -> None:
        if self.close_sent:
            return
        self.frames = []
        self.conn.fail(1008, reason)
        self.handle_parser_exception()

"""uvicorn's protocols with limits that they have not: on heads, unread answers, connections and frames."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode

from grpo_host.serving.http import unread_limit
from grpo_host.serving.http.middleware import CROWDED
from grpo_host.serving.server import CLOSE_SECONDS

if TYPE_CHECKING:
    from websockets.frames import Frame

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 15.0
CROWDED_SECONDS = 2.0
"""For the head of a request on a connection beyond the limit."""
MOST_PIPELINED = 16
"""Requests of one connection that wait for the answers to those before them."""
LEAST_READ = 16 * 1024
"""What a client must read in half of ``SEND_SECONDS`` where more than that waits for it."""
RESERVE = 32
"""Connections beyond the limit that are answered, so that a full server can say so."""
CUT_SECONDS = CLOSE_SECONDS - 1.0
"""After which the server's end cuts connections: before it has waited for them long enough."""
MOST_UNHEARD = 512
"""Messages of one WebSocket that wait, and fragments of one message."""


class Unread(asyncio.Protocol):
    """Aborts a connection whose client does not read what was written to it.

    A transport closes only when everything has been read, and asyncio waits for that without end. What
    waits can only shrink where no more is written: while writing is paused, or the transport closes.
    To be mixed in before a protocol of uvicorn's.
    """

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _paused = False
    _waited: int | None = None
    """How much waited the last time, where nothing was written since."""
    _look_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end_watching()
        self.client_is_gone()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._paused, self._waited = True, None

    def resume_writing(self) -> None:
        super().resume_writing()
        self._paused, self._waited = False, None

    def shutdown(self) -> None:
        """What is still open after ``CUT_SECONDS`` would hold uvloop's end as long as its client does."""
        super().shutdown()  # type: ignore[misc]  # asyncio's protocols have none
        self.loop.call_later(CUT_SECONDS, self.cut)

    def end_watching(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None

    def cut(self) -> None:
        self.client_is_gone()  # uvloop resumes writing before it says that the connection is lost
        self.transport.abort()

    def client_is_gone(self) -> None:
        """Nothing must be written any more."""
        raise NotImplementedError

    def _watch(self) -> None:
        self._look_timer = self.loop.call_later(unread_limit.SEND_SECONDS / 2, self._look)

    def _look(self) -> None:
        if not (self._paused or self.transport.is_closing()):
            self._waited = None
        else:
            waits = self.transport.get_write_buffer_size()
            if waits and self._waited is not None and waits > self._waited - LEAST_READ:
                self.cut()
                return
            self._waited = waits
        self._watch()


class BoundedProtocol(Unread, HttpToolsProtocol):
    """HTTP: also closes connections whose request line and headers are too long or take too long to come.

    Beyond uvicorn's ``limit_concurrency`` a new connection has one answer, with ``CROWDED`` in its scope.
    """

    _head = True
    _idle_bytes = 0
    """What came and was neither a whole head nor a body."""
    _head_timer: asyncio.TimerHandle | None = None
    _crowded = False
    _running: RequestResponseCycle | None = None
    """What is being answered; uvicorn's ``cycle`` is what was parsed last."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        most, self.limit_concurrency = self.limit_concurrency, None
        if most is not None:
            self._crowded = len(self.connections) > most
            if len(self.connections) > most + RESERVE:
                transport.abort()
                return
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        self._idle_bytes += len(data)
        super().data_received(data)
        if self._idle_bytes > HEAD_BYTES:
            self._refuse()
        elif self._head and self._idle_bytes and self._head_timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._crowded:
            cast("dict[str, Any]", self.scope)[CROWDED] = True

    def on_headers_complete(self) -> None:
        self._head, self._idle_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()
        if self._crowded:
            self.cycle.keep_alive = False
        if len(self.pipeline) > MOST_PIPELINED:
            self.cut()

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head, self._idle_bytes = True, 0
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._head and self.cycle.response_complete:
            self._start_timer()  # nobody waits for the rest of its body any more

    def handle_websocket_upgrade(self) -> None:
        if self._answered() is not None or self.transport.get_write_buffer_size():
            self.cut()  # the other protocol would not know that its client does not read
            return
        self.end_watching()  # the other protocol does
        super().handle_websocket_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _answered(self) -> RequestResponseCycle | None:
        running = self._running
        return None if running is None or running.response_complete else running

    def _should_upgrade(self) -> bool:
        return super()._should_upgrade() and not self._crowded

    def client_is_gone(self) -> None:
        self.pipeline.clear()
        if (running := self._answered()) is not None:
            running.disconnected = True
            running.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._stop_timer()
        seconds = CROWDED_SECONDS if self._crowded else HEAD_SECONDS
        self._head_timer = self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self._answered() is not None:
            self._start_timer()  # an answer is not cut short for the request behind it
        else:
            self._refuse()

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

    def client_is_gone(self) -> None:
        self.disconnected = True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._hear(False)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self._hear(True)

    async def receive(self) -> Any:
        message = await super().receive()
        if self._paused:
            self._hear(False)
        return message

    async def send(self, message: Any) -> None:
        if self.transport.is_closing():
            self.handshake_complete = True  # as far as it ever will be: the app has made no mistake
            raise ClientDisconnected
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True  # by a refusal too, which uvicorn would log as the app's mistake
        if self._paused:
            self._hear(False)  # a close hears on

    def handle_parser_exception(self) -> None:
        if self.conn.close_sent is None:  # frames before the handshake's answer
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            self.handshake_complete = True
            self.transport.abort()
        else:
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
        elif self.curr_msg_data_type == "text" and not _is_text(b"".join(self.frames)):
            self._refuse("a text must be UTF-8", CloseCode.INVALID_DATA)
        else:
            super().send_receive_event_to_app()

    def _hear(self, on: bool) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading() if on else self.transport.pause_reading()

    def _refuse(self, reason: str, code: CloseCode = CloseCode.POLICY_VIOLATION) -> None:
        if self.close_sent:
            return
        self.frames = []
        self.conn.fail(code, reason)
        self.handle_parser_exception()


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

"""A reusable HTTP/1.1 connection: one request at a time, parsed by httptools."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import httptools

from grpo_backends.errors import HttpError

_BUFFERED = 1 << 20
"""How many bytes of a streamed body may wait for their reader before reading from the server pauses."""


@dataclass(slots=True)
class Response:
    """A response. The body of a streamed one is empty."""

    status: int
    headers: list[tuple[bytes, bytes]]
    """Not parsed: hardly any is ever read."""
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first header called ``name``, in lower case."""
        wanted = name.encode("latin-1")
        return next((v.decode("latin-1") for k, v in self.headers if k.lower() == wanted), None)


class Connection(asyncio.Protocol):
    """Speaks with ``address`` (host:port, for messages); at most ``max_body`` bytes per body.

    ``seconds`` is how long a whole response may take, and each piece of a streamed one.
    """

    def __init__(self, address: str, max_body: int, seconds: float) -> None:
        self._address = address
        self._max_body = max_body
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._transport = cast(asyncio.Transport, None)
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: HttpError | None = None
        self._requests = 0
        self._busy = False
        self.usable = True
        """Whether it can take the next request."""

    async def request(self, data: bytes) -> Response:
        """Send ``data`` and read the response. Raises ``HttpError``."""
        self._send(data, streaming=False)
        await self._wait()
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return Response(self._status, self._headers, body)

    async def open_stream(self, data: bytes) -> Response:
        """Send ``data`` and read the response's head; ``chunks`` reads its body."""
        self._send(data, streaming=True)
        await self._wait()
        return Response(self._status, self._headers)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Leaving early closes the connection."""
        try:
            while True:
                if self._chunks:
                    chunk = b"".join(self._chunks)
                    self._chunks.clear()
                    self._buffered = 0
                    self._transport.resume_reading()
                    yield chunk
                elif self._complete:
                    return
                else:
                    await self._wait()
        finally:
            if not self._complete:
                self.abort()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self.usable = False
        self._end_timer()
        if self._transport is not None:
            self._transport.abort()

    def _send(self, data: bytes, *, streaming: bool) -> None:
        self._streaming = streaming
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._size = self._buffered = self._status = 0
        self._complete = self._heard = False
        self._requests += 1
        self._busy = True
        if self._error is None:
            self._transport.write(data)

    async def _wait(self) -> None:
        """Wait for the whole answer, or if it streams, for its next piece."""
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        self._due = time.monotonic() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            if self._error is not None:
                waiter.set_exception(self._error)
            else:
                waiter.set_result(None)

    def _fail(self, message: str, *, resend: bool = False) -> None:
        if self._error is None:
            self._error = HttpError(f"{self._address}: {message}", resend=resend)
        self.abort()
        self._wake()

    def _look(self) -> None:
        """Fail if the wait is too long; else look again, since a timer for each wait would cost more."""
        self._timer = None
        if self._waiter is None:
            return
        left = self._due - time.monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._fail(
                f"no answer within {self._seconds:g} s. Raise the backend's timeout, or look there why"
            )

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What follows is called by asyncio and by the parser.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._busy:  # an answer to nothing: this connection is out of step
            self.abort()
            return
        self._heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as problem:
            self._fail(f"the answer is not HTTP/1.1: {problem!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._end_timer()
        if not self._busy or self._error is not None:
            return
        if self._status and not self._has_length():  # the body ends with the connection
            self._finish()
            return
        when = "in the middle of" if self._heard else "before"
        self._fail(
            f"the connection was closed {when} the answer{f' ({exc})' if exc else ''}",
            resend=not self._heard and self._requests > 1,
        )

    def _has_length(self) -> bool:
        names = {name.lower() for name, _ in self._headers}
        return bool(names & {b"content-length", b"transfer-encoding"})

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < 200:  # 100 Continue: the answer is still to come
            self._status = 0
            self._headers.clear()
        elif self._streaming:
            self._wake()

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._max_body:
            self._fail(f"the answer is longer than {self._max_body} bytes")
            return
        self._chunks.append(body)
        if self._streaming:
            self._buffered += len(body)
            if self._buffered > _BUFFERED:
                self._transport.pause_reading()
            self._wake()

    def on_message_complete(self) -> None:
        if self._status and self._error is None:
            if not self._parser.should_keep_alive():
                self.usable = False
                self._transport.close()
            self._finish()

    def _finish(self) -> None:
        self._complete = True
        self._busy = False
        self._wake()

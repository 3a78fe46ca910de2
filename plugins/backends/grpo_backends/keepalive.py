"""A small HTTP/1.1 client: a bounded pool of connections that stay open.

The general clients cost 0.4 ms (aiohttp) to 10 ms (httpx) of CPU a request, which is more than an
episode's whole turn costs here; bench/http_clients.py measures them side by side.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from grpo_backends.errors import HttpError
from grpo_backends.http_connection import Connection, Response
from grpo_backends.proxies import open_tunnel, proxy_for


class KeepAliveClient:
    """Asks one server, through the proxy that the environment names for it. Redirects are not followed.

    A query in ``base_url`` goes along with every request.

    ``timeout`` is in seconds: for connecting, for a whole response, and for each piece of a
    streamed one. ``max_connections`` bounds the requests under way; others wait for their turn.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        max_connections: int = 512,
        max_body: int = 64 << 20,
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f'"{base_url}" is no http:// or https:// address')
        self._host = url.hostname
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if url.scheme == "https" else None
        self.address = f"{self._host}:{self._port}"
        self._path = url.path.rstrip("/")
        self._query = f"?{url.query}" if url.query else ""
        self._proxy = proxy_for(url)
        self._timeout = timeout
        self._max_body = max_body
        self._idle: list[Connection] = []
        self._gate = asyncio.Semaphore(max_connections)
        plain = self._proxy is not None and self._ssl is None
        self._target = f"http://{url.netloc.rpartition('@')[2]}" if plain else ""
        given = {"host": url.netloc.rpartition("@")[2], "content-type": "application/json"}
        lines = [f"{name}: {value}" for name, value in {**given, **(headers or {})}.items()]
        if plain and self._proxy is not None:
            lines += self._proxy.lines
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header holds a line break; look at the API key")
        self._head = "\r\n".join(lines).encode("latin-1")

    def post(self, path: str, body: bytes, lines: bytes = b"") -> Awaitable[Response]:
        """Post and return the whole response, whatever its status. Raises ``HttpError`` if none came.

        ``lines`` are further header lines, each ending in CR LF.
        """
        return self._ask(self._request("POST", path, body, lines))

    def get(self, path: str) -> Awaitable[Response]:
        """As ``post``, without a body."""
        return self._ask(self._request("GET", path, b"", b""))

    async def _ask(self, data: bytes) -> Response:
        await self._gate.acquire()  # "async with" makes two coroutines more
        try:
            while True:
                connection = await self._connection()
                try:
                    response = await connection.request(data)
                except HttpError as problem:
                    if not problem.resend:
                        raise
                    continue
                self._give_back(connection)
                return response
        finally:
            self._gate.release()

    @asynccontextmanager
    async def stream(
        self, path: str, body: bytes, lines: bytes = b""
    ) -> AsyncIterator[tuple[Response, AsyncIterator[bytes]]]:
        """The response's head, and its body as it comes. Otherwise as ``post``."""
        data = self._request("POST", path, body, lines)
        async with self._gate:
            while True:
                connection = await self._connection()
                try:
                    response = await connection.open_stream(data)
                    break
                except HttpError as problem:
                    if not problem.resend:
                        raise
            chunks = connection.chunks()
            try:
                yield response, chunks
            finally:
                await chunks.aclose()  # type: ignore[attr-defined]
                self._give_back(connection)

    def close(self) -> None:
        """Close idle connections; later requests open new ones."""
        while self._idle:
            self._idle.pop().abort()

    def _request(self, method: str, path: str, body: bytes, lines: bytes) -> bytes:
        target = f"{self._target}{self._path}{path}{self._query}"
        start = f"{method} {target} HTTP/1.1\r\ncontent-length: {len(body)}\r\n"
        return b"%b%b%b\r\n\r\n%b" % (start.encode("latin-1"), lines, self._head, body)

    def _give_back(self, connection: Connection) -> None:
        if connection.usable:
            self._idle.append(connection)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        try:
            async with asyncio.timeout(self._timeout):
                return await self._connect()
        except TimeoutError as problem:
            raise HttpError(
                f"{self.address}: no connection within {self._timeout:g} s. Check the address and "
                "that this machine can reach it"
            ) from problem
        except OSError as problem:
            raise HttpError(
                f"{self.address}: cannot connect: {problem}. Check the address and that a server "
                "listens there"
            ) from problem

    def _new_connection(self) -> Connection:
        return Connection(self.address, self._max_body, self._timeout)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        proxy = self._proxy
        if proxy is not None and self._ssl is not None:
            transport = await open_tunnel(proxy, self.address)
            connection = self._new_connection()
            secured = await loop.start_tls(transport, connection, self._ssl, server_hostname=self._host)
            connection.connection_made(secured)  # type: ignore[arg-type]  # typeshed: None, if it was closed
            return connection
        host, port = (proxy.host, proxy.port) if proxy is not None else (self._host, self._port)
        _, connection = await loop.create_connection(self._new_connection, host, port, ssl=self._ssl)
        return connection

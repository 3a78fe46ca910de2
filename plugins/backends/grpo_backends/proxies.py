"""Find proxies by the standard variables: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from grpo_backends.errors import HttpError

_LONGEST_ANSWER = 64 << 10


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    authorization: str | None

    @property
    def lines(self) -> list[str]:
        """The header lines that it needs in a request."""
        return [f"proxy-authorization: {self.authorization}"] if self.authorization else []


def proxy_for(url: SplitResult) -> Proxy | None:
    """The proxy that the environment names for ``url``: none for this machine itself.

    Raises ``ValueError`` for one of another kind than HTTP.
    """
    host = url.hostname or ""
    proxies = getproxies()
    given = proxies.get(url.scheme) or proxies.get("all")
    if not given or _is_here(host) or proxy_bypass(host):
        return None
    said = urlsplit(given if "://" in given else f"http://{given}")
    if said.scheme != "http" or not said.hostname:
        raise ValueError(
            f"the proxy of the environment ({said.scheme}://{said.hostname}) is no http:// proxy; "
            f"set {url.scheme.upper()}_PROXY to one, or name {host} in NO_PROXY"
        )
    authorization = None
    if said.username is not None:
        pair = f"{unquote(said.username)}:{unquote(said.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(said.hostname, said.port or 80, authorization)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def open_tunnel(proxy: Proxy, target: str) -> asyncio.Transport:
    """A connection to ``target`` (host:port) through ``proxy``. Raises ``HttpError`` or ``OSError``."""
    # Not asyncio's streams: a writer that is no longer held closes its connection.
    transport, answer = await asyncio.get_running_loop().create_connection(_Answer, proxy.host, proxy.port)
    head = [f"CONNECT {target} HTTP/1.1", f"host: {target}", *proxy.lines]
    try:
        transport.write("\r\n".join([*head, "", ""]).encode("latin-1"))
        status = (await answer.head).split(b"\r\n", 1)[0].decode("latin-1")
        if status.split(" ")[1:2] != ["200"]:
            raise HttpError(f"the proxy {proxy.host}:{proxy.port} opens no way to {target}: {status[:200]}")
    except EOFError as problem:
        transport.abort()
        raise HttpError(f"the proxy {proxy.host}:{proxy.port} does not answer as one") from problem
    except BaseException:
        transport.abort()
        raise
    return transport


class _Answer(asyncio.Protocol):
    """A proxy's answer to CONNECT. Behind it nothing comes: a TLS server speaks only when it is spoken to."""

    def __init__(self) -> None:
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """``EOFError`` if there is none, or it has no end."""
        self._heard = b""

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if self.head.done():
            return
        if b"\r\n\r\n" in self._heard:
            self.head.set_result(self._heard)
        elif len(self._heard) > _LONGEST_ANSWER:
            self.head.set_exception(EOFError())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.head.done():
            self.head.set_exception(EOFError())

"""What the server needs outside its process, looked at seldom, however many ask whether it is ready."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

LOOK_SECONDS = 5.0
"""How old a look may be."""
LONGEST_LOOK_SECONDS = 3.0
PATIENCE_SECONDS = 0.5
"""How long who asks waits for a new look; then the last one counts. Probes have a second."""


class Outside:
    """Remembers what ``look`` found: what cannot be reached, in a few words, or None."""

    def __init__(self, look: Callable[[], Awaitable[str | None]]) -> None:
        self._look = look
        self._looked = -math.inf
        self._looking: asyncio.Task[None] | None = None
        self._found: str | None = None

    async def failing(self) -> str | None:
        """What cannot be reached, as of five seconds ago or less."""
        first = self._looked == -math.inf
        if self._looking is None and time.monotonic() - self._looked > LOOK_SECONDS:
            self._looking = asyncio.create_task(self._look_once())
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=None if first else PATIENCE_SECONDS)
        return self._found

    async def _look_once(self) -> None:
        try:
            async with asyncio.timeout(LONGEST_LOOK_SECONDS):
                self._found = await self._look()
        except TimeoutError:
            self._found = "the database or the model does not answer"
        finally:
            self._looked = time.monotonic()
            self._looking = None

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)


async def listens(url: str) -> bool:
    """Whether somebody takes connections at ``url``, or at the proxy that leads there. Asks nothing."""
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if proxy:
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        _, writer = await asyncio.open_connection(parts.hostname, port)
    except OSError:
        return False
    writer.close()
    return True

"""What the endpoints of a server share, started and closed together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from grpo_host.config.resolve import resolve
from grpo_host.serving.access.keys import KeyStore
from grpo_host.serving.access.rate_limits import RateLimits
from grpo_host.serving.access.usage import Usage
from grpo_host.serving.http.admission import Admission
from grpo_host.serving.http.readiness import Outside
from grpo_host.serving.http.traffic import Traffic
from grpo_host.storage import database
from grpo_host.storage.migrations import migrate

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from grpo_host.config.load import LoadedConfig
    from grpo_host.plugins import Registry
    from grpo_host.serving.settings import ServerSettings

logger = logging.getLogger("grpo_host.serving")

CLOSE_SECONDS = 10.0
"""How long one part may take to close."""


class Part:
    """What a feature puts into ``Services``; all of it is optional."""

    async def start(self) -> None:
        """Begin to work; the database is migrated. Raising ends the server before it listens."""

    async def drain(self) -> None:
        """Begin nothing new, and return once nothing is under way; bounded by the caller."""

    async def close(self) -> None:
        """Release everything. Called once, also if ``start`` failed."""

    def unready(self) -> str | None:
        """Why requests should not come here now, in a few words; None if they may. Must be cheap."""
        return None

    async def unreachable(self) -> str | None:
        """What outside this process it needs and cannot reach now, in a few words; asked seldom."""
        return None


class Services:
    """The parts of a server. Making one connects to nothing and loads nothing; ``start`` does that."""

    telemetry: Any
    """None, as with the parts below: the feature is not there."""
    models: Any
    chat: Any
    jobs: Any
    viewed: Any

    def __init__(
        self,
        settings: ServerSettings,
        registry: Registry,
        *,
        loaded: LoadedConfig | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.loaded = resolve(loaded, registry) if loaded else None
        """agent.yaml, if there is one."""
        self.database: AsyncEngine = database.make_engine(settings.database())
        """For every store of the server."""
        self.keys = KeyStore(self.database)
        self.admission = Admission(settings.max_concurrency, settings.max_queue, settings.queue_seconds)
        """The places of requests, and of a WebSocket's messages."""
        self.rates = RateLimits(settings.rate, settings.failed_rate)
        self.traffic = Traffic()
        self.usage = Usage(self.database)
        self.outside = Outside(self._unreachable)
        self.draining = asyncio.Event()
        """Set when the server has begun to end."""
        self.started = False
        self.telemetry = self.models = self.chat = self.jobs = self.viewed = None
        self._names: list[str] = []

    def add(self, name: str, part: Any) -> None:
        """Let ``part`` be the attribute ``name``; it starts after those before, and closes before them."""
        setattr(self, name, part)
        self._names.append(name)

    def parts(self) -> Iterator[tuple[str, Part]]:
        """The parts that are there, in the order in which they start."""
        for name in self._names:
            part = getattr(self, name)
            if part is not None:
                yield name, part

    async def start(self) -> None:
        """Migrate the database and start the parts. Raises what the first that cannot start raises."""
        await migrate(self.database)
        self.usage.start()
        for _, part in self.parts():
            await part.start()
        self.started = True

    async def drain(self, seconds: float) -> None:
        """Take nothing new, and wait until what is under way has ended; what has not is cancelled."""
        self.draining.set()
        self.admission.begin_draining()
        ends = [asyncio.ensure_future(part.drain()) for _, part in self.parts()]
        ends.append(asyncio.ensure_future(self.admission.wait_until_idle()))
        _, late = await asyncio.wait(ends, timeout=seconds)
        for task in late:
            task.cancel()
        for problem in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(problem, Exception):
                logger.error("a part did not drain cleanly", exc_info=problem)
        cut = self.admission.cancel_all()
        if cut:
            logger.warning("%d requests had not ended after %g seconds and were cancelled", cut, seconds)
            await asyncio.wait([asyncio.ensure_future(self.admission.wait_until_idle())], timeout=2.0)

    async def close(self) -> None:
        """Release everything, each part for ten seconds at most."""
        self.draining.set()
        for name, part in reversed(list(self.parts())):
            try:
                await asyncio.wait_for(part.close(), CLOSE_SECONDS)
            except TimeoutError:
                logger.error("%s did not close within %g seconds", name, CLOSE_SECONDS)
            except Exception:
                logger.exception("%s did not close cleanly", name)
        await self.outside.close()
        await self.usage.close()
        await self.keys.close()
        await self.database.dispose()

    def unready(self) -> str | None:
        """Why requests should not come here now; None if they may."""
        if self.draining.is_set():
            return "shutting_down"
        if not self.started:
            return "starting"
        return next((why for _, part in self.parts() if (why := part.unready())), None)

    async def _unreachable(self) -> str | None:
        if not await database.answers(self.database):
            return "the database does not answer"
        for _, part in self.parts():
            if (why := await part.unreachable()) is not None:
                return why
        return None

"""What each owner has asked for: counted in memory, a metric, and kept in the database by days."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from grpo_host.agents.tracing import SERVED
from grpo_host.storage.database import NO_ANSWER, insert_for, reading, writing
from grpo_host.storage.tables import usage as _usage

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine


logger = logging.getLogger("grpo_host.serving")

WRITE_SECONDS = 10.0
"""A process that is killed loses what it has counted for so long."""
_COUNTS = ("requests", "input_tokens", "output_tokens")


@dataclass(slots=True)
class Used:
    """What was asked of models, and what they read and wrote for it."""

    requests: int = 0
    """Answers: of /v1, of /api/chat, and over WebSockets."""
    input_tokens: int = 0
    output_tokens: int = 0


class Usage:
    """Counts by owner. A count is a few additions; the database is written every ten seconds."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._totals: dict[str, Used] = {}
        self._written: dict[str, Used] = {}
        self._writing: asyncio.Task[None] | None = None

    @property
    def totals(self) -> Mapping[str, Used]:
        """By owner, since the process began."""
        return self._totals

    def request(self, owner: str) -> None:
        self._of(owner).requests += 1

    def tokens(self, read: int, written: int) -> None:
        """Of a model call for whoever is served in this context."""
        served = SERVED.get()
        if served is not None:
            used = self._of(served.owner)
            used.input_tokens += read
            used.output_tokens += written

    def _of(self, owner: str) -> Used:
        used = self._totals.get(owner)
        if used is None:
            used = self._totals[owner] = Used()
        return used

    def start(self) -> None:
        self._writing = asyncio.create_task(self._write_again_and_again())

    async def close(self) -> None:
        """Write what is not written yet."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
            await self._write()

    async def _write_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self._write()

    async def _write(self) -> None:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        rows, written = [], {}
        for owner, total in self._totals.items():
            before = self._written.get(owner, Used())
            written[owner] = Used(*(getattr(total, name) for name in _COUNTS))
            more = {name: getattr(total, name) - getattr(before, name) for name in _COUNTS}
            if any(more.values()):
                rows.append({"owner": owner, "day": day, **more})
        if not rows:
            return
        try:
            async with writing(self._engine) as connection:
                await connection.run_sync(_add, rows)
        except NO_ANSWER as problem:  # the next time it is tried again
            logger.warning("what owners have used was not written: %s", type(problem).__name__)
        else:
            self._written = written


def _add(connection: Connection, rows: list[dict[str, object]]) -> None:
    insert = insert_for(connection.dialect.name)
    for row in rows:
        statement = insert(_usage).values(row)
        grown = {name: _usage.c[name] + statement.excluded[name] for name in _COUNTS}
        connection.execute(statement.on_conflict_do_update(index_elements=["owner", "day"], set_=grown))


async def used(engine: AsyncEngine, days: int) -> dict[str, Used]:
    """By owner, in the last ``days``, today included, whoever used most first."""
    first = time.strftime("%Y-%m-%d", time.gmtime(time.time() - (days - 1) * 86_400))
    sums = [func.sum(_usage.c[name]) for name in _COUNTS]
    query = select(_usage.c.owner, *sums).where(_usage.c.day >= first).group_by(_usage.c.owner)
    async with reading(engine) as connection:
        found = {row[0]: Used(*map(int, row[1:])) for row in await connection.execute(query)}
    return dict(sorted(found.items(), key=lambda item: -(item[1].input_tokens + item[1].output_tokens)))

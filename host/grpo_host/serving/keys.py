"""Keys: made once, kept as hashes, looked up for every request."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachetools import TTLCache
from sqlalchemy import JSON, Column, Double, String, Table, func, insert, select, update

from grpo_host.serving.endpoint import ANONYMOUS, Key, Scope
from grpo_host.storage import NO_ANSWER, metadata, unreachable, writing

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

logger = logging.getLogger("grpo_host.serving")

_keys = Table(
    "grpo_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created", Double, nullable=False),
    Column("last_used", Double),
    Column("revoked", Double),
)
TABLES = (_keys,)

CACHE_SECONDS = 5.0
"""How long a revoked key may still be taken."""
CACHED = 10_000
USED_EVERY = 60.0
"""How exact ``last_used`` is."""

TOKEN = re.compile(r"grpo_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it is kept; its secret is not."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created: float
    last_used: float | None
    revoked: float | None


@dataclass(frozen=True, slots=True)
class _Known:
    key: Key
    hash: str


class KeyStore:
    """The keys of a server, in its database. Looked-up keys are remembered for five seconds."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: TTLCache[str, _Known | None] = TTLCache(CACHED, CACHE_SECONDS)
        self._lookups: dict[str, asyncio.Task[_Known | None]] = {}
        self._used: dict[str, float] = {}
        self._any = False
        self._checked_any = -math.inf
        self._writes: set[asyncio.Task[None]] = set()
        self.one_at_a_time = asyncio.Lock()
        """Held while a key is verified for an address that keeps coming with wrong ones."""

    async def create(self, name: str, scopes: Iterable[Scope]) -> tuple[KeyRecord, str]:
        """A new key and its token, which cannot be had again."""
        identifier, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        token = f"grpo_{identifier}_{secret}"
        record = KeyRecord(identifier, name, tuple(sorted(set(scopes))), time.time(), None, None)
        values: dict[str, Any] = {
            "id": identifier,
            "name": name,
            "hash": _hash(token),
            "scopes": [str(scope) for scope in record.scopes],
            "created": record.created,
        }
        async with writing(self._engine) as connection:
            await connection.execute(insert(_keys).values(values))
        self._any = True
        return record, token

    async def list(self) -> Sequence[KeyRecord]:
        """All keys, revoked ones too, the oldest first."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(_keys).order_by(_keys.c.created, _keys.c.id))
            return [_record(row) for row in rows]

    async def revoke(self, identifier: str) -> bool:
        """Take the key back; whether there was one that was valid."""
        async with writing(self._engine) as connection:
            done = await connection.execute(
                update(_keys)
                .where(_keys.c.id == identifier, _keys.c.revoked.is_(None))
                .values(revoked=time.time())
            )
        self._known.pop(identifier, None)
        return done.rowcount > 0

    async def any_exist(self) -> bool:
        """Whether there is or ever was a key: from then on nobody is served without one."""
        if not self._any and time.monotonic() - self._checked_any > CACHE_SECONDS:
            async with self._reading() as connection:
                self._any = bool(await connection.scalar(select(func.count()).select_from(_keys)))
            self._checked_any = time.monotonic()
        return self._any

    async def any_valid(self) -> bool:
        """Whether somebody can get in with a key."""
        query = select(func.count()).select_from(_keys).where(_keys.c.revoked.is_(None))
        async with self._engine.connect() as connection:
            return bool(await connection.scalar(query))

    def forget(self) -> None:
        """Ask the database again from now on."""
        self._known.clear()
        self._checked_any = -math.inf

    def remembered(self, token: str) -> bool:
        """Whether ``verify`` can answer without the database."""
        found = TOKEN.fullmatch(token)
        return found is None or found[1] in self._known

    async def verify(self, token: str) -> Key | None:
        """Whose ``token`` it is; None where it is nobody's. Raises ``RunError`` without a database."""
        found = TOKEN.fullmatch(token)
        if found is None:
            return None
        identifier = found[1]
        known = await self._lookup(identifier)
        if known is None or not hmac.compare_digest(known.hash, _hash(token)):
            return None
        self._note_use(identifier)
        return known.key

    async def valid(self, key: Key) -> bool:
        """Whether ``key``, which was verified once, is still good. Raises ``RunError`` without a database."""
        if key == ANONYMOUS:
            return not await self.any_exist()
        return await self._lookup(key.id) is not None

    async def _lookup(self, identifier: str) -> _Known | None:
        try:
            return self._known[identifier]
        except KeyError:
            pass
        # All who wait for the same key wait for one query.
        reading = self._lookups.get(identifier)
        if reading is None:
            reading = self._lookups[identifier] = asyncio.create_task(self._read(identifier))
            reading.add_done_callback(lambda _: self._lookups.pop(identifier, None))
        known = self._known[identifier] = await asyncio.shield(reading)
        return known

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.connect() as connection:
                yield connection
        except NO_ANSWER as problem:
            raise unreachable(self._engine, problem) from problem

    async def _read(self, identifier: str) -> _Known | None:
        query = select(_keys).where(_keys.c.id == identifier, _keys.c.revoked.is_(None))
        async with self._reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        record = _record(row)
        return _Known(Key(record.id, record.name, frozenset(record.scopes)), row.hash)

    def _note_use(self, identifier: str) -> None:
        now = time.time()
        if now - self._used.get(identifier, 0.0) < USED_EVERY:
            return
        self._used[identifier] = now
        task = asyncio.get_running_loop().create_task(self._write_use(identifier, now))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write_use(self, identifier: str, now: float) -> None:
        try:
            async with writing(self._engine) as connection:
                await connection.execute(update(_keys).where(_keys.c.id == identifier).values(last_used=now))
        except Exception as problem:  # the caller was served; only the note is lost
            logger.warning("the last use of key %s was not noted: %s", identifier, problem)

    async def close(self) -> None:
        """Wait for what is still to be written."""
        await asyncio.gather(*self._writes, return_exceptions=True)


def _hash(token: str) -> str:
    # The secret has 256 bits: there is nothing to guess, so a fast hash will do.
    return hashlib.sha256(token.encode()).hexdigest()


def _record(row: Any) -> KeyRecord:
    scopes = tuple(Scope(scope) for scope in row.scopes)
    return KeyRecord(row.id, row.name, scopes, row.created, row.last_used, row.revoked)

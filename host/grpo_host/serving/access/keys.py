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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachetools import TTLCache
from sqlalchemy import func, insert, select, update

from grpo_host.serving.access.caller import ANONYMOUS, Key, Scope
from grpo_host.serving.access.owners import adopt, owned
from grpo_host.storage.database import reading, writing
from grpo_host.storage.tables import keys as _keys

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

logger = logging.getLogger("grpo_host.serving")

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
    owner: str
    """The person or team that it belongs to, with all conversations and jobs; its own id if nobody was
    named."""
    scopes: tuple[Scope, ...]
    created: float
    last_used: float | None = None
    expires: float | None = None
    revoked: float | None = None

    @property
    def state(self) -> str:
        """``valid``, or what happened to it: ``revoked`` or ``expired``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= time.time() else "valid"


@dataclass(frozen=True, slots=True)
class _Known:
    key: Key
    hash: str
    revoked: bool
    ends: float
    """Unix time from which it is not taken."""

    @property
    def valid(self) -> bool:
        return not self.revoked and time.time() < self.ends


class KeyStore:
    """The keys of a server, in its database. Looked-up keys are remembered for five seconds."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._known: TTLCache[str, _Known | None] = TTLCache(CACHED, CACHE_SECONDS)
        self._lookups: dict[str, asyncio.Task[_Known | None]] = {}
        self._used: dict[str, float] = {}
        self._any = False
        self._checked_any = -math.inf
        self._writes: set[asyncio.Task[None]] = set()
        self.one_at_a_time = asyncio.Lock()
        """Held while a key is verified for an address that keeps coming with wrong ones."""

    async def create(
        self,
        name: str,
        scopes: Iterable[Scope],
        *,
        owner: str | None = None,
        expires: float | None = None,
        adopt_anonymous: bool = False,
    ) -> tuple[KeyRecord, str]:
        """A new key of ``owner`` (None: of nobody but itself) and its token, which cannot be had again.

        ``expires`` is a Unix time. ``adopt_anonymous``: the conversations and jobs from before there were
        keys become the owner's.
        """
        record, token = _new(name, scopes, owner, expires)
        async with writing(self.engine) as connection:
            await _keep(connection, record, token)
            if adopt_anonymous:
                await adopt(connection, ANONYMOUS.owner, record.owner)
        self._any = True
        return record, token

    async def replace(
        self, identifier: str, *, overlap: float = 0.0, expires: float | None = None
    ) -> tuple[KeyRecord, str] | None:
        """A new key with the owner, name and scopes of a valid one, which ends ``overlap`` seconds from now.

        ``expires`` None: it is to be valid for as long as the old one was from its making. None is given
        if there is no such valid key.
        """
        now = time.time()
        async with writing(self.engine) as connection:
            query = select(_keys).where(_keys.c.id == identifier, *_valid()).with_for_update()
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                return None
            old = _record(row)
            if expires is None and old.expires is not None:
                expires = now + old.expires - old.created
            record, token = _new(old.name, old.scopes, old.owner, expires)
            await _keep(connection, record, token)
            ends = min(now + overlap, old.expires or math.inf)
            end = {"expires": ends} if overlap else {"revoked": now}
            await connection.execute(update(_keys).where(_keys.c.id == identifier).values(end))
        self._known.pop(identifier, None)
        return record, token

    async def anonymous(self) -> int:
        """How many conversations were begun before there were keys and belong to nobody."""
        async with reading(self.engine) as connection:
            return await owned(connection, ANONYMOUS.owner)

    async def list(self) -> Sequence[KeyRecord]:
        """All keys, revoked ones too, the oldest first."""
        async with reading(self.engine) as connection:
            rows = await connection.execute(select(_keys).order_by(_keys.c.created, _keys.c.id))
            return [_record(row) for row in rows]

    async def revoke(self, identifier: str) -> bool:
        """Take the key back; whether there was one that was valid."""
        async with writing(self.engine) as connection:
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
            async with reading(self.engine) as connection:
                self._any = bool(await connection.scalar(select(func.count()).select_from(_keys)))
            self._checked_any = time.monotonic()
        return self._any

    async def any_valid(self) -> bool:
        """Whether somebody can get in with a key."""
        query = select(func.count()).select_from(_keys).where(*_valid())
        async with reading(self.engine) as connection:
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
        """Whose ``token`` it is; None if it is nobody's. Raises ``RunError`` without a database."""
        known = await self._matching(token)
        if known is None or not known.valid:
            return None
        self._note_use(known.key.id)
        return known.key

    async def refused(self, token: str) -> tuple[Key, str] | None:
        """Which key ``token`` was, and why it is no longer valid; None if it never was one."""
        known = await self._matching(token)
        if known is None or known.valid:
            return None
        return known.key, "was revoked" if known.revoked else "has expired"

    async def valid(self, key: Key) -> bool:
        """Whether ``key``, which was verified once, is still good. Raises ``RunError`` without a database."""
        if key == ANONYMOUS:
            return not await self.any_exist()
        known = await self._lookup(key.id)
        return known is not None and known.valid

    async def _matching(self, token: str) -> _Known | None:
        found = TOKEN.fullmatch(token)
        known = None if found is None else await self._lookup(found[1])
        return known if known is not None and hmac.compare_digest(known.hash, _hash(token)) else None

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

    async def _read(self, identifier: str) -> _Known | None:
        async with reading(self.engine) as connection:
            row = (await connection.execute(select(_keys).where(_keys.c.id == identifier))).one_or_none()
        if row is None:
            return None
        record = _record(row)
        key = Key(record.id, record.name, frozenset(record.scopes), record.owner)
        return _Known(key, row.hash, record.revoked is not None, record.expires or math.inf)

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
            async with writing(self.engine) as connection:
                await connection.execute(update(_keys).where(_keys.c.id == identifier).values(last_used=now))
        except Exception as problem:  # the caller was served; only the note is lost
            logger.warning("the last use of key %s was not noted: %s", identifier, problem)

    async def close(self) -> None:
        """Wait for what is still to be written."""
        await asyncio.gather(*self._writes, return_exceptions=True)


def _new(
    name: str, scopes: Iterable[Scope], owner: str | None, expires: float | None
) -> tuple[KeyRecord, str]:
    identifier, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    chosen = tuple(sorted(set(scopes)))
    record = KeyRecord(identifier, name, owner or identifier, chosen, time.time(), expires=expires)
    return record, f"grpo_{identifier}_{secret}"


async def _keep(connection: AsyncConnection, record: KeyRecord, token: str) -> None:
    values: dict[str, Any] = {
        "id": record.id,
        "name": record.name,
        "owner": record.owner,
        "hash": _hash(token),
        "scopes": [str(scope) for scope in record.scopes],
        "created": record.created,
        "expires": record.expires,
    }
    await connection.execute(insert(_keys).values(values))


def _valid() -> list[ColumnElement[bool]]:
    return [
        _keys.c.revoked.is_(None),
        _keys.c.expires.is_(None) | (_keys.c.expires > time.time()),
    ]


def _hash(token: str) -> str:
    # The secret has 256 bits: there is nothing to guess, so a fast hash will do.
    return hashlib.sha256(token.encode()).hexdigest()


def _record(row: Any) -> KeyRecord:
    scopes = tuple(Scope(scope) for scope in row.scopes)
    # Keys of before there were owners have none: they own themselves.
    owner = row.owner or row.id
    return KeyRecord(row.id, row.name, owner, scopes, row.created, row.last_used, row.expires, row.revoked)

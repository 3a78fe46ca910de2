"""Conversations in a database: SQLite or PostgreSQL, through SQLAlchemy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from grpo_host.backends.event_loop import LoopThread
from grpo_host.chat.sql_groups import HEAD, Addition, Also, read_all, read_heads, record_of, taken, write_all
from grpo_host.chat.store import ConversationRecord, ConversationStore, Digest
from grpo_host.storage.database import NO_ANSWER, make_engine, reading, unreachable, writing
from grpo_host.storage.groups import Groups
from grpo_host.storage.migrations import migrate
from grpo_host.storage.tables import conversations
from grpo_host.storage.tables import messages as _messages
from grpo_host.utils.paths import expanded
from grpo_sdk.blocking import call_blocking
from grpo_sdk.messages import Message

if TYPE_CHECKING:
    from sqlalchemy import Delete, Select
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    Work: TypeAlias = Callable[[AsyncConnection], Awaitable["T"]]

T = TypeVar("T")
Q = TypeVar("Q", "Select[Any]", "Delete")

CONNECTIONS = 5
"""How many transactions of a store run at the same time."""

BEGINNING = 100
"""Characters of a conversation's first words."""


class SqlStore(ConversationStore):
    """Conversations in the database at ``url``; its tables are made on first use.

    ``sqlite+aiosqlite:///chats.db`` (in WAL mode: many processes may read while one writes) and
    ``postgresql+asyncpg://…`` go the same way. What is appended meanwhile by many goes into one
    transaction, which also checks how many messages each conversation has, so that two processes can
    neither lose nor double one. Works from any event loop: the connections live in a thread of the
    store's own. ``close`` it.
    """

    def __init__(self, url: str, **engine_options: Any) -> None:
        self._engine = make_engine(url, **engine_options)
        self._shared = False
        self._begin()

    @classmethod
    def sqlite(cls, path: str | Path) -> SqlStore:
        """A store in the SQLite file at ``path``."""
        return cls(f"sqlite+aiosqlite:///{expanded(path).absolute()}")

    @classmethod
    def on(cls, engine: AsyncEngine) -> SqlStore:
        """A store on a migrated database that others use too, in the one event loop that it is used from.

        ``close`` leaves ``engine`` open.
        """
        store = cls.__new__(cls)
        store._engine, store._shared = engine, True
        store._begin()
        return store

    def _begin(self) -> None:
        self._thread: LoopThread | None = None
        self._starting = threading.Lock()
        # SQLite has one writer, and its readers share a processor: fewer ways there are larger groups.
        self._groups = 1 if self._engine.dialect.name == "sqlite" else CONNECTIONS
        self._readers = Groups(partial(self._many, read_all, writes=False), self._groups)
        self._heads = Groups(partial(self._many, read_heads, writes=False), self._groups)
        self._writers = Groups(partial(self._many, write_all, writes=True), self._groups)
        self._new_loop()

    def _new_loop(self) -> None:
        # Locks belong to the loop that they are waited for in.
        self._tables = asyncio.Lock()
        self._ready = False
        # Here a thousand callers wait their turn; in the engine's pool they would time out, and before
        # SQLite's write lock they would poll.
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._writes = asyncio.Semaphore(self._groups)

    async def create(self, record: ConversationRecord) -> None:
        try:
            await self._await(self._writers.ask(record))
        except IntegrityError:
            raise taken(record.id) from None

    async def get(self, conversation_id: str) -> ConversationRecord | None:
        return await self._await(self._readers.ask(conversation_id))

    async def head(self, conversation_id: str) -> ConversationRecord | None:
        """The conversation without its messages and context, as ``list`` gives it."""
        return await self._await(self._heads.ask(conversation_id))

    async def append(
        self,
        conversation_id: str,
        messages: Sequence[Message],
        *,
        expected: int,
        strategy: str | None = None,
        digest: Digest | None = None,
        also: Also | None = None,
    ) -> None:
        """As ``ConversationStore`` says; ``also`` is done in the same transaction."""
        addition = Addition(conversation_id, messages, expected, strategy, digest, also)
        await self._await(self._writers.ask(addition))

    async def list(
        self,
        user_id: str | None = None,
        owner: str | None = None,
        *,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[ConversationRecord]:
        query = select(*HEAD).order_by(conversations.c.updated.desc(), conversations.c.id)
        if user_id is not None:
            query = query.where(conversations.c.user_id == user_id)
        if owner is not None:
            query = query.where(conversations.c.owner == owner)

        async def work(connection: AsyncConnection) -> list[ConversationRecord]:
            rows = await connection.execute(query.limit(limit).offset(offset))
            return [record_of(row, {}, []) for row in rows]

        return await self._read(work)

    async def beginnings(self, ids: Sequence[str]) -> dict[str, str]:
        """The first words of each conversation of ``ids`` that has any."""
        query = select(_messages.c.conversation_id, _messages.c.body).where(
            _messages.c.conversation_id.in_(ids), _messages.c.position == 0
        )

        async def work(connection: AsyncConnection) -> dict[str, str]:
            return {id: body["content"][:BEGINNING] for id, body in await connection.execute(query)}

        return await self._read(work)

    async def delete(self, conversation_id: str) -> bool:
        async def work(connection: AsyncConnection) -> bool:
            gone = await connection.execute(
                delete(conversations).where(conversations.c.id == conversation_id)
            )
            return gone.rowcount > 0

        return await self._write(work)

    async def ids(self, owner: str | None = None, user_id: str | None = None) -> Sequence[str]:
        """The ids of all conversations of ``owner`` (None: of anybody), the most recently used first."""
        query = _of(select(conversations.c.id), owner, user_id).order_by(conversations.c.updated.desc())

        async def work(connection: AsyncConnection) -> list[str]:
            return list(await connection.scalars(query))

        return await self._read(work)

    async def forget(self, owner: str, user_id: str | None = None, conversation_id: str | None = None) -> int:
        """Delete the conversations of ``owner``; return how many there were."""
        query = _of(delete(conversations), owner, user_id)
        if conversation_id is not None:
            query = query.where(conversations.c.id == conversation_id)
        return await self._forget(query)

    async def forget_before(self, updated: float) -> int:
        """Delete the conversations last used before the Unix time ``updated``; return how many."""
        return await self._forget(delete(conversations).where(conversations.c.updated < updated))

    async def _forget(self, query: Delete) -> int:
        async def work(connection: AsyncConnection) -> int:
            return int((await connection.execute(query)).rowcount)

        return await self._write(work)

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.call(self._engine.dispose())
            await call_blocking(thread.close)

    async def _many(
        self,
        work: Callable[[AsyncConnection, Sequence[Any]], Awaitable[T]],
        asked: Sequence[Any],
        *,
        writes: bool,
    ) -> T:
        return await self._transact(lambda connection: work(connection, asked), writes=writes)

    async def _read(self, work: Work[T]) -> T:
        return await self._await(self._transact(work, writes=False))

    async def _write(self, work: Work[T]) -> T:
        return await self._await(self._transact(work, writes=True))

    async def _await(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, which is done in the loop of the connections."""
        if self._shared:
            return await work
        with self._starting:
            if self._thread is None:
                self._thread = LoopThread("grpo-store")
                self._new_loop()
            thread = self._thread
        return await thread.call(work)

    async def _transact(self, work: Work[T], *, writes: bool) -> T:
        try:
            if not self._shared and not self._ready:
                async with self._tables:
                    if not self._ready:
                        await migrate(self._engine)
                        self._ready = True
            turn, begun = (self._writes, writing) if writes else (self._places, reading)
            async with turn, begun(self._engine) as connection:
                return await work(connection)
        except IntegrityError:
            raise
        except NO_ANSWER as problem:
            raise unreachable(self._engine, problem) from problem


def _of(query: Q, owner: str | None, user_id: str | None) -> Q:
    found = query if owner is None else query.where(conversations.c.owner == owner)
    return found if user_id is None else found.where(conversations.c.user_id == user_id)

"""The database that a server keeps its state in: its engine, its clock, its failures.

SQLite (``sqlite+aiosqlite:///server.db``) is for one machine, PostgreSQL (``postgresql+asyncpg://…``)
for several; both go the same way.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidRequestError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from grpo_host.storage.tables import schema_version
from grpo_sdk.errors import ConfigError, MissingExtraError, RunError

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

BUSY_SECONDS = 30.0
"""How long a SQLite write waits for another process's."""

NO_ANSWER = (DBAPIError, PoolTimeoutError, OSError)
"""What is raised where a database does not answer; see ``unreachable``."""


class StorageError(RunError):
    """The database does not answer. The text is for who runs the server, not for who calls it."""


def make_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine for ``url``; it connects when it is first used. Raises ``ConfigError``.

    Errors of the database never show the values of a statement. A transaction on SQLite that is to
    read before it writes goes through ``writing``.
    """
    from sqlalchemy.ext.asyncio import create_async_engine

    if url.startswith("sqlite+aiosqlite:"):
        from grpo_host.storage.sqlite_connection import connect

        own = {"async_creator_fn": connect, **options.get("connect_args", {})}
        options = {**options, "connect_args": own}
    try:
        engine = create_async_engine(url, hide_parameters=True, **options)
    except ModuleNotFoundError as problem:
        raise MissingExtraError(
            f"the database {url.split(':')[0]}", str(problem.name), "postgres"
        ) from problem
    except (ArgumentError, NoSuchModuleError, InvalidRequestError):
        # The cause is left out: it quotes the URL, password and all.
        raise ConfigError(
            "the URL of the database is none that can be used. Write "
            "sqlite+aiosqlite:///file.db or postgresql+asyncpg://user:password@host/database"
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def reached(engine: AsyncEngine) -> Iterator[None]:
    """Raises ``StorageError`` if the database does not answer what is asked inside."""
    try:
        yield
    except NO_ANSWER as problem:
        raise unreachable(engine, problem) from problem


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection to read with: each statement sees what is committed then. Raises as ``reached``.

    There is no transaction, whose begin and end cost PostgreSQL as many ways to the server and back as a
    statement, and SQLite one to its thread.
    """
    sqlite = engine.dialect.name == "sqlite"
    with reached(engine):
        async with engine.connect() as connection:
            await connection.execution_options(
                **{"grpo_begin": None} if sqlite else {"isolation_level": "AUTOCOMMIT"}
            )
            yield connection


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that may read and then write: on SQLite it takes the write lock with its first statement.

    (On SQLite a plain ``engine.begin()`` that has read cannot go on to write where another process
    wrote meanwhile; one whose first statement writes can.)
    """
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            await connection.execution_options(grpo_begin="BEGIN IMMEDIATE")
        async with connection.begin():
            yield connection


def insert_for(dialect: str) -> Any:
    """The ``insert`` that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return import_module(f"sqlalchemy.dialects.{dialect}").insert


async def now(connection: AsyncConnection) -> float:
    """The database's time: servers on several machines need not agree on theirs."""
    if connection.dialect.name == "postgresql":
        return float(await connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0)
    return time.time()


async def answers(engine: AsyncEngine) -> bool:
    """Whether the database is there, with its tables."""
    try:
        async with engine.connect() as connection:
            await connection.execute(select(schema_version.c.version).limit(1))
    except NO_ANSWER:
        return False
    return True


def describe(engine: AsyncEngine) -> str:
    """Where the database is, without its password."""
    return engine.url.render_as_string(hide_password=True)


def unreachable(engine: AsyncEngine, problem: BaseException) -> StorageError:
    """What to say where the database does not answer."""
    cause = getattr(problem, "orig", None) or problem
    return StorageError(
        f"the database {describe(engine)} does not answer: {cause}. Check that it is there, that this "
        "process may write to it, and the URL"
    )


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not guessed by the driver
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # what was answered outlives a power cut too
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    driver: Any = connection.connection.driver_connection
    driver.begin(connection.get_execution_options().get("grpo_begin", "BEGIN"))

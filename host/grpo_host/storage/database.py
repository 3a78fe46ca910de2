"""The database that a server keeps its state in: one engine, one set of tables, migrated in order.

SQLite (``sqlite+aiosqlite:///server.db``) is for one machine, PostgreSQL (``postgresql+asyncpg://…``)
for several; both go the same way. A room that keeps something defines its tables on ``metadata``, and a
migration in ``MIGRATIONS`` that makes them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Double, Integer, MetaData, String, Table, event, insert, inspect, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidRequestError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from grpo_sdk.errors import ConfigError, MissingExtraError, RunError

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

BUSY_SECONDS = 30.0
"""How long a SQLite write waits for another process's."""

NO_ANSWER = (DBAPIError, PoolTimeoutError, OSError)
"""What is raised where a database does not answer; see ``unreachable``."""

_LOCK = 0x67_72_70_6F
"""PostgreSQL's advisory lock of migrations: "grpo"."""

metadata = MetaData()


class StorageError(RunError):
    """The database does not answer. The text is for who runs the server, not for who calls it."""


schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("name", String(200), nullable=False),
    Column("applied", Double, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. Its number is for ever; ``apply`` does nothing where it is done already."""

    version: int
    name: str
    apply: Callable[[Connection], None]


def create_tables(module: str) -> Callable[[Connection], None]:
    """Makes the tables that ``module`` keeps in ``TABLES``, with their indexes."""

    def apply(connection: Connection) -> None:
        metadata.create_all(connection, tables=list(import_module(module).TABLES), checkfirst=True)

    return apply


def add_column(table: str, column: Column[Any]) -> Callable[[Connection], None]:
    """Adds ``column``, which may be null or has a server default."""

    def apply(connection: Connection) -> None:
        if column.name not in {found["name"] for found in inspect(connection).get_columns(table)}:
            from sqlalchemy.schema import CreateColumn

            definition = CreateColumn(column).compile(dialect=connection.dialect)
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {definition}"))

    return apply


def add_columns(module: str, table: str, *names: str) -> Callable[[Connection], None]:
    """Adds those columns of ``table``, which ``module`` defines."""

    def apply(connection: Connection) -> None:
        import_module(module)
        for name in names:
            add_column(table, metadata.tables[table].c[name])(connection)

    return apply


def _training_jobs(connection: Connection) -> None:
    import_module("grpo_host.serving.jobs.store").make_tables(connection)


MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "conversations", create_tables("grpo_host.chat.sql_store")),
    Migration(2, "keys", create_tables("grpo_host.serving.access.keys")),
    Migration(3, "training jobs", _training_jobs),
    Migration(
        4, "owners of keys", add_columns("grpo_host.serving.access.keys", "grpo_keys", "owner", "expires")
    ),
    Migration(5, "usage by owner", create_tables("grpo_host.serving.access.usage")),
    Migration(6, "idempotency keys", create_tables("grpo_host.serving.access.idempotency")),
)
"""In order; what was released is never changed, only added to."""


def make_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine for ``url``; it connects when it is first used. Raises ``ConfigError``.

    Errors of the database never show the values of a statement. A transaction on SQLite that is to
    read before it writes goes through ``writing``.
    """
    from sqlalchemy.ext.asyncio import create_async_engine

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


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that may read and then write: on SQLite it takes the write lock at its start.

    (On SQLite a plain ``engine.begin()`` that has read cannot go on to write where another process
    wrote meanwhile; one whose first statement writes can.)
    """
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            await connection.execution_options(grpo_writing=True)
        async with connection.begin():
            yield connection


async def migrate(engine: AsyncEngine) -> None:
    """Bring the tables up to date, in one transaction; several processes may do so at once.

    Raises ``StorageError`` where the database does not answer, and ``RunError`` where it is of a newer
    version than this program.
    """
    where = describe(engine)
    try:
        async with writing(engine) as connection:
            if engine.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            await connection.run_sync(_migrate, where)
    except NO_ANSWER as problem:
        # A loop that ends now would end before aiosqlite's thread has told it that the file is closed,
        # and the thread would print a traceback.
        await asyncio.sleep(0.1)
        raise unreachable(engine, problem) from problem


def _migrate(connection: Connection, where: str) -> None:
    metadata.create_all(connection, tables=[schema_version], checkfirst=True)
    done = set(connection.scalars(select(schema_version.c.version)))
    newer = done - {migration.version for migration in MIGRATIONS}
    if newer:
        raise RunError(
            f"the database {where} is of version {max(newer)}, and this program knows versions up to "
            f"{MIGRATIONS[-1].version}; update grpo-agent-framework"
        )
    for migration in MIGRATIONS:
        if migration.version not in done:
            migration.apply(connection)
            row = {"version": migration.version, "name": migration.name, "applied": time.time()}
            connection.execute(insert(schema_version).values(row))


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
    wanted = connection.get_execution_options().get("grpo_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if wanted else "BEGIN")

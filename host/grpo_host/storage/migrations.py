"""The steps that bring a database up to date, in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Table, insert, inspect, select, text
from sqlalchemy.schema import CreateColumn

from grpo_host.storage.database import NO_ANSWER, describe, unreachable, writing
from grpo_host.storage.tables import (
    PLACE,
    claims,
    conversations,
    feedback,
    jobs,
    keys,
    messages,
    metadata,
    places,
    schema_version,
    usage,
)
from grpo_sdk.errors import RunError

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

_LOCK = 0x67_72_70_6F
"""PostgreSQL's advisory lock of migrations: "grpo"."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. Its number is for ever; ``apply`` does nothing if it is done already."""

    version: int
    name: str
    apply: Callable[[Connection], None]


def create_tables(*tables: Table) -> Callable[[Connection], None]:
    """Makes the tables, with their indexes."""

    def apply(connection: Connection) -> None:
        metadata.create_all(connection, tables=tables, checkfirst=True)

    return apply


def add_columns(*columns: Column[Any]) -> Callable[[Connection], None]:
    """Adds columns to tables that exist; each may be null or has a server default."""

    def apply(connection: Connection) -> None:
        for column in columns:
            table = column.table.name
            if column.name not in {found["name"] for found in inspect(connection).get_columns(table)}:
                definition = CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {definition}"))

    return apply


def _create_jobs(connection: Connection) -> None:
    create_tables(jobs, places)(connection)
    if connection.execute(select(places).where(places.c.name == PLACE)).first() is None:
        connection.execute(insert(places).values(name=PLACE, holder=None, expires=0.0, jobs=0))


MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "conversations", create_tables(conversations, messages)),
    Migration(2, "keys", create_tables(keys)),
    Migration(3, "training jobs", _create_jobs),
    Migration(4, "owners of keys", add_columns(keys.c.owner, keys.c.expires)),
    Migration(5, "usage by owner", create_tables(usage)),
    Migration(6, "idempotency keys", create_tables(claims)),
    Migration(7, "feedback", create_tables(feedback)),
)
"""In order; what was released is never changed, only added to."""


async def migrate(engine: AsyncEngine) -> None:
    """Bring the tables up to date, in one transaction; several processes may do so at once.

    Raises ``StorageError`` if the database does not answer, and ``RunError`` if it is of a newer
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

"""What goes to SQLite's thread, and that nothing stays open there."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from grpo_host.storage.database import make_engine, reading, writing
from grpo_host.storage.sqlite_connection import Connection, connect


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    made = make_engine(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    async with made.begin() as connection:
        await connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    yield made
    await made.dispose()


async def numbers(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list(await connection.scalars(text("SELECT n FROM t ORDER BY n")))


@pytest.fixture
def went(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What has gone to a connection's thread."""
    gone: list[Any] = []
    execute = Connection._execute

    async def counted(self: Connection, *args: Any) -> Any:
        gone.append(args)
        return await execute(self, *args)

    monkeypatch.setattr(Connection, "_execute", counted)
    return gone


async def test_a_transaction_goes_to_the_thread_once_a_statement_and_once_to_commit(
    engine: AsyncEngine, went: list[Any]
) -> None:
    async with writing(engine) as connection:
        await connection.execute(text("INSERT INTO t VALUES (1)"))
        assert (await connection.execute(text("UPDATE t SET n = 2"))).rowcount == 1
        await connection.execute(text("INSERT INTO t VALUES (:n)"), [{"n": 3}, {"n": 4}])
    assert len(went) == 4
    assert await numbers(engine) == [2, 3, 4]


async def test_what_only_reads_goes_to_the_thread_once_a_statement(
    engine: AsyncEngine, went: list[Any]
) -> None:
    async with reading(engine) as connection:
        for _ in range(3):
            await connection.execute(text("SELECT n FROM t"))
    assert len(went) == 3


async def test_what_fails_is_rolled_back(engine: AsyncEngine) -> None:
    async def twice() -> None:
        async with writing(engine) as connection:
            await connection.execute(text("INSERT INTO t VALUES (1)"))
            await connection.execute(text("INSERT INTO t VALUES (1)"))

    with pytest.raises(IntegrityError):
        await twice()
    assert await numbers(engine) == []
    async with writing(engine) as connection:
        await connection.execute(text("INSERT INTO t VALUES (5)"))
    assert await numbers(engine) == [5]


async def test_a_transaction_that_is_cancelled_leaves_no_lock(engine: AsyncEngine) -> None:
    async def write() -> None:
        async with writing(engine) as connection:
            for number in range(1000):
                await connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": number})
                started.set()

    for _ in range(3):
        started = asyncio.Event()
        writer = asyncio.create_task(write())
        await started.wait()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    async with writing(engine) as connection:
        await connection.execute(text("INSERT INTO t VALUES (7)"))
    assert await numbers(engine) == [7]


async def test_a_writer_takes_the_lock_with_its_first_statement(engine: AsyncEngine) -> None:
    async with writing(engine) as first:
        await first.execute(text("SELECT 1"))
        async with engine.connect() as other:
            await other.exec_driver_sql("PRAGMA busy_timeout = 1")
            with pytest.raises(Exception, match="database is locked"):
                await other.execute(text("INSERT INTO t VALUES (1)"))


async def test_what_follows_a_lock_that_was_refused_is_in_the_transaction_too(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    class StopError(Exception):
        pass

    async def write() -> None:
        async with writing(engine) as connection:
            with pytest.raises(OperationalError, match="locked"):
                await connection.execute(text("INSERT INTO t VALUES (1)"))
            other.rollback()
            await connection.execute(text("INSERT INTO t VALUES (2)"))
            raise StopError

    async with engine.connect() as connection:  # the one that the pool gives again
        await connection.exec_driver_sql("PRAGMA busy_timeout = 1")
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StopError):
            await write()
    assert await numbers(engine) == []


async def test_a_cursor_can_be_awaited_as_sqlalchemy_2_0_does(tmp_path: Path) -> None:
    async with connect(str(tmp_path / "x.db")) as connection:
        cursor = await connection.cursor()
        await cursor.execute("SELECT 1")
        assert await cursor.fetchall() == [(1,)]

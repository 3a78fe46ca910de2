from __future__ import annotations

import asyncio
import contextlib
import multiprocessing

import pytest
from sqlalchemy import Column, MetaData, String, Table, func, insert, inspect, select, text

from grpo_host.storage import migrations
from grpo_host.storage.database import make_engine, reading, writing
from grpo_host.storage.migrations import MIGRATIONS, Migration, migrate
from grpo_host.storage.tables import schema_version
from grpo_sdk import ConfigError
from grpo_sdk.errors import RunError


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite+aiosqlite:///{tmp_path / 'server.db'}"


async def using(url, work):
    engine = make_engine(url)
    try:
        return await work(engine)
    finally:
        await engine.dispose()


async def versions(engine):
    async with engine.connect() as connection:
        return list(await connection.scalars(select(schema_version.c.version).order_by("version")))


async def test_migrating_again_changes_nothing(url):
    async def work(engine):
        await migrate(engine)
        await migrate(engine)
        return await versions(engine)

    assert await using(url, work) == [migration.version for migration in MIGRATIONS]


def _migrate_in_a_process(url, ready, go):
    ready.release()
    go.wait()
    asyncio.run(using(url, migrate))


@pytest.mark.slow
async def test_several_processes_may_start_at_once(url):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    children = [context.Process(target=_migrate_in_a_process, args=(url, ready, go)) for _ in range(4)]
    for child in children:
        child.start()
    for _ in children:
        ready.acquire()
    go.set()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert await using(url, versions) == [migration.version for migration in MIGRATIONS]


async def test_a_step_that_fails_leaves_nothing_behind(url, monkeypatch):
    def fail(connection):
        connection.execute(text("CREATE TABLE half (id INTEGER)"))
        raise ZeroDivisionError

    async def work(engine):
        await migrate(engine)
        monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, Migration(99, "fails", fail)))
        with pytest.raises(ZeroDivisionError):
            await migrate(engine)
        async with engine.connect() as connection:
            assert not await connection.run_sync(lambda c: inspect(c).has_table("half"))
        assert 99 not in await versions(engine)

    await using(url, work)


async def test_a_database_of_a_newer_version_is_refused(url, monkeypatch):
    async def work(engine):
        with monkeypatch.context() as newer:
            newer.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, Migration(99, "later", lambda _: None)))
            await migrate(engine)
        with pytest.raises(RunError, match=r"version 99.*update grpo-agent-framework"):
            await migrate(engine)

    await using(url, work)


async def test_a_column_is_added_once(url):
    table = Table("schema_version", MetaData(), Column("who", String(10), server_default="me"))
    step = migrations.add_columns(table.c.who)

    async def work(engine):
        await migrate(engine)
        async with writing(engine) as connection:
            await connection.run_sync(step)
            await connection.run_sync(step)
            return await connection.scalar(text("SELECT who FROM schema_version WHERE version = 1"))

    assert await using(url, work) == "me"


async def test_transactions_that_read_and_then_write_do_not_lose_each_other(url):
    """A counter, read and written back by many at once."""

    async def add_one(engine):
        async with writing(engine) as connection:
            if engine.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
            count = await connection.scalar(text("SELECT n FROM counter"))
            await asyncio.sleep(0.001)
            await connection.execute(text("UPDATE counter SET n = :n"), {"n": count + 1})

    async def work(engine):
        async with writing(engine) as connection:
            await connection.execute(text("CREATE TABLE counter (n INTEGER)"))
            await connection.execute(text("INSERT INTO counter VALUES (0)"))
        await asyncio.gather(*(add_one(engine) for _ in range(20)))
        async with engine.connect() as connection:
            return await connection.scalar(text("SELECT n FROM counter"))

    assert await using(url, work) == 20


async def test_a_reader_sees_what_is_committed_and_the_next_transaction_is_one_all_the_same(url):
    async def work(engine):
        await migrate(engine)
        row = {"name": "x", "applied": 0.0}
        async with reading(engine) as reader:
            before = await reader.scalar(select(func.count()).select_from(schema_version))
            async with writing(engine) as connection:
                await connection.execute(insert(schema_version).values(version=1001, **row))
            assert await reader.scalar(select(func.count()).select_from(schema_version)) == before + 1
        for begin in (writing, type(engine).begin) * 2:  # on each connection that the pool gives again
            with contextlib.suppress(ZeroDivisionError):
                async with begin(engine) as connection:
                    await connection.execute(insert(schema_version).values(version=1002, **row))
                    raise ZeroDivisionError
            assert 1002 not in await versions(engine)

    await using(url, work)


async def test_what_sqlite_has_committed_is_on_the_disk(tmp_path):
    async def work(engine):
        async with engine.connect() as connection:
            rows = [
                await connection.exec_driver_sql(f"PRAGMA {name}") for name in ("journal_mode", "synchronous")
            ]
            return [row.scalar_one() for row in rows]

    assert await using(f"sqlite+aiosqlite:///{tmp_path}/a.db", work) == ["wal", 2]  # 2: FULL


def test_a_url_that_cannot_be_used_is_told_without_repeating_it():
    for wrong in ("nonsense", "sqlite:///file.db", "nosuch+driver://user:hunter2@host/db"):
        with pytest.raises(ConfigError) as told:
            make_engine(wrong)
        assert "hunter2" not in str(told.value)
        assert "postgresql+asyncpg://" in str(told.value)


async def test_an_error_of_the_database_shows_no_values():
    async def work(engine):
        async with engine.begin() as connection:
            await connection.execute(text("SELECT * FROM absent WHERE x = :x"), {"x": "hunter2"})

    with pytest.raises(Exception, match="no such table") as told:
        await using("sqlite+aiosqlite:///:memory:", work)
    assert "hunter2" not in str(told.value)

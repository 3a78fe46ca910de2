"""Whose conversations and jobs are: of keys that come and go, and in databases of earlier versions."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from grpo_host.chat.sql_store import SqlStore
from grpo_host.chat.store import ConversationRecord
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.access.keys import KeyStore
from grpo_host.serving.jobs.record import JobPlan
from grpo_host.serving.jobs.store import JobStore
from grpo_host.storage.database import make_engine
from grpo_host.storage.migrations import migrate

DATABASES = Path(__file__).parents[2] / "databases"
TOKEN = "grpo_f0e16e11e115b5b7_Bb7WA-FlHfN0axfV1CU-reGxEYIQB4QySgysKpTMXR8"
REVOKED = "grpo_29ad979457895254_cMRdv55mgYzpqHIc_iwm2UC243XYcFkkH8n0kagfXug"
"""The keys in the databases of version 3."""


@asynccontextmanager
async def opened(url):
    """The migrated database at ``url``: its engine and its keys."""
    engine = make_engine(url)
    keys = KeyStore(engine)
    try:
        await migrate(engine)
        yield engine, keys
    finally:
        await keys.close()
        await engine.dispose()


@pytest.fixture
def new(tmp_path):
    return f"sqlite+aiosqlite:///{tmp_path / 'server.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def version3(request, tmp_path):
    """The URL of a database that the code of schema version 3 has written."""
    script = (DATABASES / f"version3.{request.param}.sql").read_text()
    if request.param == "sqlite":
        with sqlite3.connect(tmp_path / "server.db") as database:
            database.executescript(script)
        database.close()
        return f"sqlite+aiosqlite:///{tmp_path / 'server.db'}"
    url = request.getfixturevalue("postgres_url")

    async def fill():
        engine = make_engine(url)
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            await raw.driver_connection.execute(script)
        await engine.dispose()

    asyncio.run(fill())
    return url


async def test_a_database_of_version_3_keeps_its_keys_with_their_conversations_and_jobs(version3):
    async def work():
        async with opened(version3) as (engine, keys):
            key = await keys.verify(TOKEN)
            assert (key.name, key.scopes) == ("web", {Scope.CHAT, Scope.TRAIN})
            assert await keys.verify(REVOKED) is None
            store = SqlStore.on(engine)
            [head] = await store.list(owner=key.owner)
            whole = await store.get(head.id)
            assert [message["content"] for message in whole.messages[2:]] == ["Thanks", "You are welcome."]
            assert (whole.digest.messages, whole.digest.summary) == (2, "Asked about an order.")
            return [job.steps for job in await JobStore(engine).list(key.owner)]

    assert await work() == [5]


async def test_a_key_of_version_3_can_be_replaced_and_its_conversations_stay(version3):
    async def work():
        async with opened(version3) as (engine, keys):
            old = await keys.verify(TOKEN)
            _, token = await keys.replace(old.id)
            assert await keys.verify(TOKEN) is None
            new = await keys.verify(token)
            assert (new.name, new.scopes) == (old.name, old.scopes)
            assert new.id != old.id
            return [record.id for record in await SqlStore.on(engine).list(owner=new.owner)]

    assert await work() == ["of-web"]


async def test_what_is_anonymous_in_version_3_is_adopted_only_where_that_is_said(version3):
    async def work():
        async with opened(version3) as (engine, keys):
            store, jobs = SqlStore.on(engine), JobStore(engine)

            async def of(owner):
                return [r.id for r in await store.list(owner=owner)], [
                    j.steps for j in await jobs.list(owner)
                ]

            await keys.create("in passing", list(Scope), owner="shop")
            assert await of("shop") == ([], [])
            assert await keys.anonymous() == 1
            await keys.create("web", [Scope.CHAT], owner="shop", adopt_anonymous=True)
            assert await keys.anonymous() == 0
            return await of("shop")

    assert await work() == (["before-keys"], [3])


async def test_the_keys_of_one_owner_share_and_those_of_another_do_not(new):
    async with opened(new) as (_, keys):
        made = [await keys.create(name, [Scope.CHAT], owner=owner) for name, owner in PAIRS]
        owners = [(await keys.verify(token)).owner for _, token in made]
    assert owners[:3] == ["shop", "shop", "lab"]
    assert len(set(owners[3:])) == 2, (
        "who names no owner shares with nobody, not even with a key of that name"
    )


PAIRS = [("a", "shop"), ("b", "shop"), ("c", "lab"), ("d", None), ("d", None)]


async def test_a_key_is_taken_until_it_expires(new, monkeypatch):
    async with opened(new) as (_, keys):
        record, token = await keys.create("web", [Scope.CHAT], expires=time.time() + 3600)
        key = await keys.verify(token)
        assert await keys.valid(key)
        assert await keys.any_valid()
        now = time.time() + 3601  # also where the key is remembered
        monkeypatch.setattr("grpo_host.serving.access.keys.time.time", lambda: now)
        assert await keys.verify(token) is None
        assert not await keys.valid(key)
        assert not await keys.any_valid()
        assert await keys.replace(record.id) is None
        assert (await keys.list())[0].state == "expired"
        key, why = await keys.refused(token)
    assert (key.name, why) == ("web", "has expired")


async def test_a_key_that_is_replaced_with_an_overlap_is_taken_for_so_long(new, monkeypatch):
    async with opened(new) as (_, keys):
        record, old = await keys.create("web", [Scope.CHAT], owner="shop")
        replacement, token = await keys.replace(record.id, overlap=60.0)
        assert (replacement.owner, replacement.expires) == ("shop", None)
        assert await keys.verify(old)
        now = time.time() + 61
        monkeypatch.setattr("grpo_host.serving.access.keys.time.time", lambda: now)
        assert await keys.verify(old) is None
        assert await keys.verify(token)


async def test_an_overlap_makes_no_key_valid_for_longer_and_its_successor_lives_as_long(new):
    async with opened(new) as (_, keys):
        record, _ = await keys.create("web", [Scope.CHAT], expires=time.time() + 100)
        replacement, _ = await keys.replace(record.id, overlap=3600)
        [old, _] = await keys.list()
        before, after, lifetime = record.expires, old.expires, replacement.expires - replacement.created
    assert after == before
    assert lifetime == pytest.approx(100, abs=5)


async def test_a_revoked_key_is_not_replaced(new):
    async def work():
        async with opened(new) as (_, keys):
            record, _ = await keys.create("web", [Scope.CHAT])
            await keys.revoke(record.id)
            return await keys.replace(record.id), await keys.replace("none"), len(await keys.list())

    assert await work() == (None, None, 1)


async def test_the_jobs_of_an_owner_are_seen_with_each_of_the_owners_keys(serving):
    from grpo_host.serving.jobs import routes

    class Queue:
        def __init__(self, services):
            self.store = JobStore(services.database)

        async def list(self, owner, **page):
            return await self.store.list(owner, **page)

        def directory(self, job):
            return None

    async def work():
        async with serving(endpoints=routes.job_endpoints()) as server:
            server.services.jobs = queue = Queue(server.services)
            await queue.store.submit("shop", JobPlan("s", "desk", 3, "name: desk\n"), max_queued=9)
            seen = []
            for owner in ("shop", "shop", "lab"):
                _, token = await server.services.keys.create("k", [Scope.TRAIN], owner=owner)
                answer = await server.client.get("/api/jobs", headers={"authorization": f"Bearer {token}"})
                seen.append(len(answer.json()["jobs"]))
            server.services.jobs = None
            return seen

    assert await work() == [1, 1, 0]


async def test_adopting_moves_nothing_of_anybody_else(new):
    async def work():
        async with opened(new) as (engine, keys):
            store = SqlStore.on(engine)
            for name in ("anonymous", "lab"):
                await store.create(ConversationRecord(f"of-{name}", owner=name))
            await keys.create("web", [Scope.CHAT], owner="shop", adopt_anonymous=True)
            return {record.id: record.owner for record in await store.list()}

    assert await work() == {"of-anonymous": "shop", "of-lab": "lab"}

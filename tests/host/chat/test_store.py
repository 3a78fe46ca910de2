from __future__ import annotations

import asyncio
import json
import multiprocessing
import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy import text

from grpo_host.chat.sql_store import SqlStore
from grpo_host.chat.store import (
    ConflictError,
    ConversationNotFoundError,
    ConversationRecord,
    Digest,
    MemoryStore,
)
from grpo_host.storage.database import make_engine
from grpo_sdk import ConfigError, MissingExtraError, assistant, tool_call, tool_result, user
from grpo_sdk.errors import GrpoError, RunError

CALL = tool_call("look_up", '{"order": "A12"}', "call_0")
EXCHANGE = [
    user("Where? \x00 \ud800 👋"),
    assistant("", [CALL]),
    tool_result(CALL, "soon"),
    assistant("Soon."),
]


@pytest.fixture
def url_of(request, tmp_path):
    """The URL of an empty database of a kind."""

    def url(kind):
        if kind == "postgres":
            return request.getfixturevalue("postgres_url")
        return f"sqlite+aiosqlite:///{tmp_path / 'chats.db'}"

    return url


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def run(request, url_of):
    """Gives a function that runs ``work(store)`` on an empty store, again and again on the same."""
    store = MemoryStore() if request.param == "memory" else SqlStore(url_of(request.param))

    async def empty():
        for record in await store.list(limit=1000):
            await store.delete(record.id)

    asyncio.run(empty())
    yield lambda work: asyncio.run(work(store))
    asyncio.run(store.close())


def test_a_conversation_comes_back_as_it_was_stored(run):
    async def work(store):
        record = ConversationRecord(
            "c1", "ann", "sales", {"topic": "shoes", "deep": [1, {"a": None}]}, EXCHANGE[:1], 5.0, 6.0, "key"
        )
        await store.create(record)
        assert await store.get("c1") == record
        await store.append("c1", EXCHANGE[1:], expected=1, strategy="tutoring", digest=Digest(1, "Hm."))
        return await store.get("c1")

    found = run(work)
    assert found.messages == EXCHANGE
    assert (found.strategy, found.digest, found.length) == ("tutoring", Digest(1, "Hm."), 4)
    assert found.updated > found.created == 5.0


def test_an_append_to_a_conversation_that_has_grown_is_a_conflict(run):
    async def work(store):
        await store.create(ConversationRecord("c1"))
        await store.append("c1", [user("one")], expected=0)
        with pytest.raises(ConflictError, match='"c1" has 1 messages, not 0: somebody else'):
            await store.append("c1", [user("two")], expected=0)
        return await store.get("c1")

    assert run(work).messages == [user("one")]


def test_of_many_appends_at_once_exactly_one_goes_through(run):
    async def work(store):
        await store.create(ConversationRecord("c1"))
        tries = [store.append("c1", [user(str(i)), assistant("ok")], expected=0) for i in range(20)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(result is None for result in results) == 1
        assert sum(isinstance(result, ConflictError) for result in results) == 19
        return await store.get("c1")

    assert len(run(work).messages) == 2


def test_an_id_is_taken_once(run):
    async def work(store):
        await store.create(ConversationRecord("c1"))
        with pytest.raises(ConflictError, match='there is a conversation "c1" already'):
            await store.create(ConversationRecord("c1"))

    run(work)


def test_what_is_not_there(run):
    async def work(store):
        assert await store.get("none") is None
        assert await store.delete("none") is False
        with pytest.raises(ConversationNotFoundError, match='no conversation "none"'):
            await store.append("none", [user("Hi")], expected=0)

    run(work)


def test_conversations_are_listed_by_user_and_owner_latest_first(run):
    async def work(store):
        for number, (who, owner) in enumerate([("ann", "k1"), ("bob", "k1"), ("ann", "k2"), (None, "k1")]):
            record = ConversationRecord(str(number), who, "", {"a": 1}, owner=owner, updated=float(number))
            await store.create(record)
        await store.append("0", EXCHANGE, expected=0)

        async def ids(*by, **page):
            return [record.id for record in await store.list(*by, **page)]

        assert await ids() == ["0", "3", "2", "1"]
        assert await ids("ann") == ["0", "2"]
        assert await ids(None, "k1") == ["0", "3", "1"]
        assert await ids("ann", "k2") == ["2"]
        assert await ids(limit=2, offset=1) == ["3", "2"]
        [first, *_] = await store.list()
        assert (first.messages, first.context, first.length) == ([], {}, 4)

    run(work)


def test_a_deleted_conversation_is_gone_with_its_messages(run):
    async def work(store):
        await store.create(ConversationRecord("c1", messages=EXCHANGE))
        assert await store.delete("c1")
        assert await store.get("c1") is None
        await store.create(ConversationRecord("c1"))
        assert (await store.get("c1")).messages == []

    run(work)


def test_a_store_works_in_one_event_loop_after_another(run):
    async def create(store):
        await store.create(ConversationRecord("c1"))

    async def append(store):
        await store.append("c1", [user("Hi")], expected=0)

    async def read(store):
        return await store.get("c1")

    run(create)
    run(append)
    assert run(read).messages == [user("Hi")]


def test_what_is_read_can_be_changed_without_changing_the_store(run):
    async def work(store):
        await store.create(ConversationRecord("c1", messages=[user("Hi")]))
        (await store.get("c1")).messages.append(user("more"))
        return await store.get("c1")

    assert run(work).messages == [user("Hi")]


def add(where, name, times):
    """In a process of its own: add ``times`` exchanges, reading again after each conflict."""

    async def work():
        store = SqlStore(where)
        for number in range(times):
            while True:
                record = await store.get("c1")
                try:
                    said = [user(f"{name} {number}"), assistant(f"to {name} {number}")]
                    await store.append("c1", said, expected=record.length)
                    break
                except ConflictError:
                    await asyncio.sleep(0)
        await store.close()

    asyncio.run(work())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_two_processes_neither_lose_nor_double_nor_tear_an_exchange(url_of, kind):
    url = url_of(kind)

    async def prepare():
        store = SqlStore(url)
        await store.delete("c1")
        await store.create(ConversationRecord("c1"))
        await store.close()

    asyncio.run(prepare())
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add, args=(url, name, 25)) for name in ("a", "b")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]

    async def read():
        store = SqlStore(url)
        record = await store.get("c1")
        await store.close()
        return record

    texts = [message["content"] for message in asyncio.run(read()).messages]
    asked, answered = texts[::2], texts[1::2]
    assert answered == [f"to {text}" for text in asked]
    for name in ("a", "b"):
        assert [text for text in asked if text.startswith(name)] == [f"{name} {i}" for i in range(25)]


async def test_sqlite_writes_ahead_and_bodies_are_json(tmp_path):
    store = SqlStore.sqlite(tmp_path / "chats.db")
    await store.create(ConversationRecord("c1", messages=[user("Hi")]))
    await store.close()
    with sqlite3.connect(tmp_path / "chats.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        [(body,)] = database.execute("SELECT body FROM grpo_messages").fetchall()
    database.close()
    assert json.loads(body) == {"role": "user", "content": "Hi"}


@pytest.mark.slow
def test_hundreds_of_callers_at_once_wait_their_turn_and_not_in_the_pool(url_of):
    async def work():
        store = SqlStore(url_of("sqlite"), pool_timeout=0.01)
        ids = [str(number) for number in range(200)]
        await asyncio.gather(*(store.create(ConversationRecord(name)) for name in ids))
        await asyncio.gather(*(store.append(name, EXCHANGE, expected=0) for name in ids))
        found = await asyncio.gather(*map(store.get, ids))
        await store.close()
        return found

    assert all(record.messages == EXCHANGE for record in asyncio.run(work()))


@pytest.fixture(params=["sqlite", "postgres"])
async def sql(request, url_of):
    """An empty store in a database."""
    store = SqlStore(url_of(request.param))
    yield store
    await store.close()


async def test_what_many_append_at_once_goes_in_one_transaction_and_each_hears_of_its_own(sql):
    for name in ("a", "b", "c"):
        await sql.create(ConversationRecord(name))
    transactions = []
    transact = sql._transact

    async def counted(work, **options):
        transactions.append(options)
        return await transact(work, **options)

    sql._transact = counted
    problems = await asyncio.gather(
        sql.append("a", [user("one")], expected=0, strategy="sales"),
        sql.append("a", [user("two")], expected=0),
        sql.append("b", [user("three")], expected=1),
        sql.append("none", [user("four")], expected=0),
        sql.create(ConversationRecord("b")),
        sql.create(ConversationRecord("d", messages=[user("five")])),
        sql.append("d", [assistant("six")], expected=1, digest=Digest(1, "Five.")),
        sql.append("c", [user("seven")], expected=0),
        return_exceptions=True,
    )
    assert len(transactions) < 3
    conflict, absent = ConflictError, ConversationNotFoundError
    assert [type(problem) for problem in problems] == [
        type(None), conflict, conflict, absent, conflict, type(None), type(None), type(None)
    ]  # fmt: skip
    assert "has 1 messages, not 0" in str(problems[1])
    found = {name: await sql.get(name) for name in "abcd"}
    said = {name: [message["content"] for message in record.messages] for name, record in found.items()}
    assert said == {"a": ["one"], "b": [], "c": ["seven"], "d": ["five", "six"]}
    assert (found["a"].strategy, found["d"].digest) == ("sales", Digest(1, "Five."))


async def test_what_cannot_be_written_of_one_is_written_of_the_others(sql):
    for name in ("a", "b", "c"):
        await sql.create(ConversationRecord(name))

    async def also(connection):
        await connection.execute(text("UPDATE grpo_conversations SET summary = 'no' WHERE id = 'c'"))
        raise GrpoError("no")

    problems = await asyncio.gather(
        sql.append("a", [user("fine")], expected=0),
        sql.append("b", [{"role": "user", "content": object()}], expected=0),
        sql.append("c", [user("refused")], expected=0, also=also),
        return_exceptions=True,
    )
    assert problems[0] is None
    assert "not JSON serializable" in str(problems[1])
    assert str(problems[2]) == "no"
    found = {name: await sql.get(name) for name in "abc"}
    assert [len(found[name].messages) for name in "abc"] == [1, 0, 0]
    assert found["c"].digest.summary == ""


async def test_nobody_waits_for_a_conversation_that_another_process_has(postgres_url):
    store, other = SqlStore(postgres_url), make_engine(postgres_url)
    names = ("a", "b", "c")
    await asyncio.gather(*(store.create(ConversationRecord(name)) for name in names))
    async with other.begin() as holder:
        await holder.execute(text("SELECT 1 FROM grpo_conversations WHERE id = 'a' FOR UPDATE"))
        a, *rest = [asyncio.create_task(store.append(name, EXCHANGE, expected=0)) for name in names]
        await asyncio.wait_for(asyncio.gather(*rest), 10)
        assert not a.done()
    await a
    assert [record.length for record in await asyncio.gather(*map(store.get, names))] == [4, 4, 4]
    await store.close()
    await other.dispose()


async def test_many_conversations_are_read_at_once_each_with_its_own_messages(sql):
    await asyncio.gather(
        *(sql.create(ConversationRecord(name, messages=[user(name)] * 3)) for name in ("a", "b"))
    )
    read = await asyncio.gather(*map(sql.get, ["b", "none", "a", "b"]))
    assert [record and record.messages[0]["content"] for record in read] == ["b", None, "a", "b"]
    read[0].messages.clear()
    assert len(read[3].messages) == 3


async def test_a_head_is_what_a_list_tells_of_a_conversation(sql):
    await sql.create(ConversationRecord("a", "ann", "sales", {"deep": 1}, EXCHANGE, owner="key"))
    await sql.append("a", [user("More?")], expected=4, digest=Digest(2, "Soon."))
    heads = await asyncio.gather(*map(sql.head, ["a", "none"]))
    assert heads == [*await sql.list(), None]
    assert (heads[0].owner, heads[0].length, heads[0].context, heads[0].messages) == ("key", 5, {}, [])


async def test_facts_and_summary_come_with_a_conversation_of_many_messages_or_none(sql):
    for name, said in (("a", EXCHANGE), ("b", [])):
        await sql.create(ConversationRecord(name, None, "", {"deep": [1]}, said, digest=Digest(1, "Hm.")))
    for record in await asyncio.gather(sql.get("a"), sql.get("b")):
        assert (record.context, record.digest) == ({"deep": [1]}, Digest(1, "Hm."))


async def test_a_database_that_does_not_answer_is_named(tmp_path):
    async def work():
        store = SqlStore.sqlite(tmp_path / "none" / "chats.db")
        try:
            await store.get("c1")
        finally:
            await store.close()

    with pytest.raises(
        RunError, match=r"database sqlite\+aiosqlite:///.*chats\.db does not answer: unable to"
    ):
        await work()


@pytest.mark.parametrize("url", ["chats.db", "sqlite:///chats.db", "oracular://x"])
def test_a_url_that_cannot_be_used_says_what_can(url):
    with pytest.raises(ConfigError, match=r"Write sqlite\+aiosqlite:///file\.db or postgresql\+asyncpg://"):
        SqlStore(url)


def test_a_missing_driver_says_which_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(MissingExtraError, match=r"grpo-agent-framework\[postgres\]"):
        SqlStore("postgresql+asyncpg://localhost/chats")


def test_the_memory_store_needs_no_database_library():
    script = "import sys, grpo_host.chat.store; print('sqlalchemy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr

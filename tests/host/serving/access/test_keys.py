from __future__ import annotations

import asyncio
import re
import time

import pytest

from grpo_host.serving.access.caller import Scope
from grpo_host.serving.access.keys import KeyStore
from grpo_host.storage import database
from grpo_host.storage.migrations import migrate
from grpo_host.utils.redaction import redact


@pytest.fixture
def run(tmp_path):
    """Gives a function that runs ``work(keys)`` on a migrated database, and closes it."""

    def run(work):
        async def whole():
            engine = database.make_engine(f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}")
            await migrate(engine)
            keys = KeyStore(engine)
            try:
                return await work(keys)
            finally:
                await keys.close()
                await engine.dispose()

        return asyncio.run(whole())

    return run


def test_a_key_is_its_owner_s_until_it_is_revoked(run):
    async def work(keys):
        record, token = await keys.create("web", [Scope.CHAT, Scope.TRAIN, Scope.CHAT])
        key = await keys.verify(token)
        assert (key.id, key.name, key.scopes) == (record.id, "web", {Scope.CHAT, Scope.TRAIN})
        assert await keys.revoke(record.id)
        assert not await keys.revoke(record.id)
        assert await keys.verify(token) is None
        assert await keys.any_exist()
        assert not await keys.any_valid()

    run(work)


def test_the_secret_has_256_bits_and_is_nowhere_in_the_database(run, tmp_path):
    async def work(keys):
        return [(await keys.create("k", [Scope.CHAT]))[1] for _ in range(20)]

    tokens = run(work)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for token in tokens:
        secret = re.fullmatch(r"grpo_[0-9a-f]{16}_([A-Za-z0-9_-]{43})", token)[1]
        assert secret.encode() not in stored
    assert len({token.split("_", 2)[2] for token in tokens}) == 20


def test_a_revoked_key_is_forgotten_by_other_processes_within_seconds(run, monkeypatch):
    async def work(keys):
        record, token = await keys.create("web", [Scope.CHAT])
        other = KeyStore(keys.engine)
        now = time.monotonic()
        other._known = type(other._known)(10, 5.0, timer=lambda: now)
        assert await other.verify(token)
        await keys.revoke(record.id)
        assert await other.verify(token)
        now += 5.1
        assert await other.verify(token) is None
        await other.close()

    run(work)


def test_the_last_use_is_noted(run):
    async def work(keys):
        _, token = await keys.create("web", [Scope.CHAT])
        assert (await keys.list())[0].last_used is None
        await keys.verify(token)
        await keys.close()
        assert abs((await keys.list())[0].last_used - time.time()) < 10

    run(work)


def test_unknown_keys_ask_the_database_once(run):
    async def work(keys):
        token = f"grpo_{'0' * 16}_{'a' * 43}"
        assert not keys.remembered(token)
        assert await keys.verify(token) is None
        assert keys.remembered(token)

    run(work)


@pytest.mark.parametrize(
    "text",
    [
        "key grpo_0123456789abcdef_" + "aB-_" * 11,
        "GET /x?k=grpo_0123456789abcdef_abcdefgh",
        "grpo_0123456789ABCDEF_%41%41%41%41",
    ],
)
def test_a_log_line_loses_its_keys(text):
    assert redact(f"before {text} after") == "before " + text.partition("grpo_")[0] + "grpo_*** after"


def test_a_log_line_keeps_what_is_no_key():
    assert redact("grpo_host.serving grpo_agent_framework") == "grpo_host.serving grpo_agent_framework"

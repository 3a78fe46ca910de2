"""``grpo-host keys``: what an operator types, and what it says."""

from __future__ import annotations

import asyncio
import json

import pytest
from click.testing import CliRunner

from grpo_host.chat.sql_store import SqlStore
from grpo_host.chat.store import ConversationRecord
from grpo_host.cli.keys import command
from grpo_host.storage import database


@pytest.fixture
def url(tmp_path):
    return f"sqlite+aiosqlite:///{tmp_path / 'server.db'}"


@pytest.fixture
def keys(url):
    """``keys("list")``: runs the command on a database of its own."""

    def run(*arguments):
        return CliRunner().invoke(command, [*arguments, "--database", url], prog_name="grpo-host keys")

    return run


def listed(keys):
    return json.loads(keys("list", "--json").stdout)


def test_the_key_alone_is_on_stdout_and_its_owner_and_end_are_told(keys):
    made = keys("create", "--name", "web", "--owner", "shop", "--expires", "90d")
    [record] = listed(keys)
    assert made.stdout.startswith(f"grpo_{record['id']}_")
    assert made.stdout.count("\n") == 1
    assert f'key {record["id"]} of "shop" with chat, until ' in made.stderr
    assert record["owner"] == "shop"
    assert record["expires"] - record["created"] == pytest.approx(90 * 86400, abs=60)


def test_a_key_without_an_owner_owns_itself(keys):
    assert "of itself with chat" in keys("create", "--name", "web").stderr
    [record] = listed(keys)
    assert record["owner"] == record["id"]


@pytest.mark.parametrize("duration", ["90", "0d", "-1d", "1w", "soon", ""])
def test_a_duration_that_is_none_is_refused(keys, duration):
    refused = keys("create", "--name", "web", "--expires", duration)
    assert refused.exit_code == 2
    assert "is no duration: write 90d, 12h or 30m" in refused.stderr


@pytest.mark.parametrize("owner", ["", " ", "a\nb", "x" * 201])
def test_an_owner_without_a_name_is_refused(keys, owner):
    refused = keys("create", "--name", "web", "--owner", owner)
    assert refused.exit_code == 2
    assert "--owner: give up to 200 letters" in refused.stderr


def test_nobody_becomes_anonymous_by_name(keys):
    refused = keys("create", "--name", "web", "--owner", "anonymous")
    assert refused.exit_code == 2
    assert "--adopt-anonymous" in refused.stderr
    assert listed(keys) == []


def test_a_key_made_in_passing_tells_of_the_anonymous_conversations_and_leaves_them(keys, url):
    async def begin():
        store = SqlStore(url)
        await store.create(ConversationRecord("c1", owner="anonymous"))
        await store.close()

    async def owner():
        engine = database.make_engine(url)
        record = await SqlStore.on(engine).get("c1")
        await engine.dispose()
        return record.owner

    asyncio.run(begin())
    passing = keys("create", "--name", "me", "--owner", "shop")
    assert "1 conversations were begun without a key" in passing.stderr
    assert "--adopt-anonymous" in passing.stderr
    assert asyncio.run(owner()) == "anonymous"
    adopting = keys("create", "--name", "me", "--owner", "shop", "--adopt-anonymous")
    assert '1 anonymous conversations are of "shop" now' in adopting.stderr
    assert asyncio.run(owner()) == "shop"


def test_a_replaced_key_names_its_successor_and_its_own_end(keys):
    keys("create", "--name", "web", "--owner", "shop")
    [old] = listed(keys)
    replaced = keys("replace", old["id"])
    old, new = listed(keys)
    assert replaced.stdout.startswith(f"grpo_{new['id']}_")
    assert f"key {old['id']} is taken no more" in replaced.stderr
    assert (new["owner"], new["name"]) == ("shop", "web")
    assert old["revoked"] is not None
    overlapping = keys("replace", new["id"], "--overlap", "1d")
    assert f"key {new['id']} is taken until 20" in overlapping.stderr


def test_a_key_that_is_not_there_cannot_be_replaced(keys):
    refused = keys("replace", "none")
    assert refused.exit_code == 1
    assert 'no valid key has the id "none"; see grpo-host keys list' in refused.stderr


def test_the_list_shows_owner_and_state(keys):
    keys("create", "--name", "web", "--owner", "shop")
    keys("create", "--name", "old")
    keys("revoke", listed(keys)[1]["id"])
    rows = keys("list").stdout.splitlines()
    assert rows[0].split() == ["id", "name", "owner", "scopes", "created", "last", "used", "expires", "state"]
    assert rows[1].split()[1:3] == ["web", "shop"]
    assert (rows[1].split()[-1], rows[2].split()[-1]) == ("valid", "revoked")

"""How long conversations are kept; taking them away and deleting them, by their owner and by an admin."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from grpo_host.chat.sql_store import SqlStore
from grpo_host.chat.store import ConversationRecord
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.api import chat, conversation_export
from grpo_host.serving.api.conversations import Chats
from grpo_sdk.messages import assistant, user

DAY = 86_400.0
SAID = [user("Where is my order?"), assistant("On its way.")]


class Kept(Chats):
    """The part without models."""

    def __init__(self, services):
        from grpo_host.serving.access.idempotency import Claims

        self._services, self._tidying = services, None
        self.store, self.claims = SqlStore.on(services.database), Claims(services.database)


@pytest.fixture(params=["sqlite", "postgresql"])
def kept(request, serving):
    """``kept(work)``: what ``work(server, headers)`` gives on a server with conversations of two owners."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")

    def run(work, **options):
        async def whole():
            endpoints = [*conversation_export.endpoints(), *chat.endpoints()]
            async with serving(endpoints=endpoints, database_url=url, **options) as server:
                services = server.services
                services.chat = chats = Kept(services)
                old = time.time() - 40 * DAY
                for id, owner, who, updated in (
                    ("1", "shop", "ann", old), ("2", "shop", "bob", time.time()), ("3", "lab", "ann", old),
                ):  # fmt: skip
                    record = ConversationRecord(id, who, messages=SAID, owner=owner, updated=updated)
                    await chats.store.create(record)
                headers = {}
                for name, owner, scopes in (
                    ("shop", "shop", [Scope.CHAT]), ("admin", "boss", [Scope.ADMIN]),
                ):  # fmt: skip
                    _, token = await services.keys.create(name, scopes, owner=owner)
                    headers[name] = {"authorization": f"Bearer {token}"}
                services.keys.forget()
                result = await work(server, headers)
                left = sorted([record.id for record in await chats.store.list()])
                services.chat = None
                return result, left

        return asyncio.run(whole())

    return run


def lines(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_an_owner_takes_all_conversations_away(kept):
    async def work(server, headers):
        return await server.client.get("/api/conversations/export", headers=headers["shop"])

    answer, _ = kept(work)
    assert [item["conversation_id"] for item in lines(answer)] == ["2", "1"]
    assert [message["content"] for message in lines(answer)[0]["history"]] == [m["content"] for m in SAID]


def test_an_owner_deletes_the_conversations_of_one_user(kept):
    async def work(server, headers):
        where = {"params": {"user_id": "ann"}, "headers": headers["shop"]}
        return (await server.client.delete("/api/conversations", **where)).json()

    assert kept(work) == ({"deleted": 1}, ["2", "3"])


def test_an_owner_deletes_all_of_them(kept):
    async def work(server, headers):
        return (await server.client.delete("/api/conversations", headers=headers["shop"])).json()

    assert kept(work) == ({"deleted": 2}, ["3"])


def test_an_admin_takes_away_and_deletes_what_is_another_s(kept):
    async def work(server, headers):
        client, admin = server.client, headers["admin"]
        path = "/api/owners/conversations"
        exported = await client.get(path, params={"owner": "lab"}, headers=admin)
        one = await client.delete(path, params={"owner": "shop", "conversation_id": "2"}, headers=admin)
        not_theirs = await client.delete(path, params={"owner": "lab", "conversation_id": "1"}, headers=admin)
        return [item["conversation_id"] for item in lines(exported)], one.json(), not_theirs.json()

    assert kept(work) == ((["3"], {"deleted": 1}, {"deleted": 0}), ["1", "3"])


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_without_the_scope_admin_nobody_sees_another_s(kept, method):
    async def work(server, headers):
        asked = {"params": {"owner": "lab"}, "headers": headers["shop"]}
        return (await server.client.request(method, "/api/owners/conversations", **asked)).status_code

    assert kept(work) == (403, ["1", "2", "3"])


def test_an_admin_names_whose(kept):
    async def work(server, headers):
        return (await server.client.delete("/api/owners/conversations", headers=headers["admin"])).status_code

    assert kept(work) == (422, ["1", "2", "3"])


def test_what_is_silent_for_longer_than_it_is_kept_is_deleted(kept):
    async def work(server, headers):
        await server.services.chat.tidy()

    assert kept(work, conversation_days=30) == (None, ["2"])


def test_without_a_time_everything_is_kept(kept):
    async def work(server, headers):
        await server.services.chat.tidy()

    assert kept(work) == (None, ["1", "2", "3"])

"""A chat request that is sent again is answered once, whenever and wherever the retry comes."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from grpo_host.config.load import load_config
from grpo_host.plugins import load_plugins
from grpo_host.serving.access import idempotency
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.app import create_app
from grpo_host.serving.settings import ServerSettings
from grpo_sdk.backend import Backend, Capability, ChatReply
from grpo_sdk.hooks import hookimpl
from grpo_sdk.messages import assistant

PATH = "/api/chat"


class Counting(Backend):
    """Numbers its answers; fails or waits where the test says so."""

    capabilities = frozenset({Capability.CHAT, Capability.TOOLS})
    answers = 0
    failures = 0
    begun: asyncio.Event
    release: asyncio.Event

    async def chat(self, messages, sampling, tools=()):
        type(self).begun.set()
        await type(self).release.wait()
        if type(self).failures:
            type(self).failures -= 1
            raise ValueError("no answer")
        type(self).answers += 1
        return ChatReply(assistant(f"answer {type(self).answers}"))


@pytest.fixture(params=["sqlite", "postgresql"])
def replicas(request, tmp_path):
    """``async with replicas() as (backend, first, second)``: clients of two servers on one database."""
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    path = tmp_path / "agent.yaml"
    path.write_text(
        "name: desk\nmodel: tiny\nbackend: counting\nenvironment: support_desk\nrewards: [length]\n"
        f"output: {tmp_path / 'runs'}\n"
    )
    loaded = load_config(path)

    @asynccontextmanager
    async def start():
        backend = type("Backend", (Counting,), {"begun": asyncio.Event(), "release": asyncio.Event()})
        backend.release.set()

        class Backends:
            @hookimpl
            def grpo_backends(self):
                return {"counting": backend}

        async with AsyncExitStack() as stack:
            clients = []
            for _ in range(2):
                registry = load_plugins()
                registry.register(Backends(), "test-backends")
                settings = ServerSettings.of(loaded, state=tmp_path / "state", database_url=url)
                app = create_app(settings, registry, loaded=loaded)
                await stack.enter_async_context(app.router.lifespan_context(app))
                transport = httpx.ASGITransport(app)
                client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
                clients.append(await stack.enter_async_context(client))
                client.services = app.state.services
            yield backend, *clients

    return start


async def test_a_retry_gets_the_same_answer_and_doubles_nothing(replicas):
    async with replicas() as (backend, first, second):
        body = {"message": "Hello", "idempotency_key": "a"}
        answers = [await client.post(PATH, json=body) for client in (first, second, first)]
        record = await first.services.chat.store.get(answers[0].json()["conversation_id"])
        count = len(await first.services.chat.store.list())
        thought, said = (backend.answers, [message["content"] for message in record.messages])
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", "true"]
    assert (thought, count, said) == (1, 1, ["Hello", "answer 1"])


async def test_a_retry_while_the_first_is_answered_waits_its_turn(replicas):
    async with replicas() as (backend, first, second):
        backend.release.clear()
        headers = {"idempotency-key": "a"}
        running = asyncio.create_task(first.post(PATH, json={"message": "Hello"}, headers=headers))
        await asyncio.wait_for(backend.begun.wait(), 60)
        early = [await c.post(PATH, json={"message": "Hello"}, headers=headers) for c in (first, second)]
        backend.release.set()
        answer = await running
        late = await second.post(PATH, json={"message": "Hello"}, headers=headers)
        thought = backend.answers
    for refused in early:
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "in_progress")
        assert int(refused.headers["retry-after"]) >= 1
    assert late.json() == answer.json()
    assert thought == 1


async def test_of_many_at_once_one_is_answered(replicas):
    async with replicas() as (backend, *clients):
        body = {"message": "Hello", "idempotency_key": "a"}
        answers = await asyncio.gather(*(clients[n % 2].post(PATH, json=body) for n in range(20)))
        thought, statuses = backend.answers, {answer.status_code for answer in answers}
    assert thought == 1
    assert statuses <= {200, 409}


async def test_what_failed_is_answered_when_it_is_sent_again(replicas):
    async def work():
        async with replicas() as (backend, first, second):
            backend.failures = 1
            body = {"message": "Hello", "idempotency_key": "a"}
            return [(await client.post(PATH, json=body)).status_code for client in (first, second)]

    assert await work() == [503, 200]


async def test_the_claim_of_a_process_that_died_is_taken_over_with_its_conversation(replicas, monkeypatch):
    async with replicas() as (_, first, second):
        claims = first.services.chat.claims
        monkeypatch.setattr(idempotency, "LEASE_SECONDS", -1.0)  # it has lapsed when it is looked at
        turn = {"message": "Hello", "idempotency_key": "a"}
        request = await _request(first, turn)
        dead = await claims._claim("anonymous", "a", request, "begun")
        monkeypatch.setattr(idempotency, "LEASE_SECONDS", 30.0)
        answer = await second.post(PATH, json=turn)
        # The first lives after all: what it has thought out is not kept beside the other's.
        store = first.services.chat.store
        with pytest.raises(Exception, match="is being answered"):
            await store.append("begun", [assistant("late")], expected=2, also=claims.answered(dead, {}))
        answer, length = answer.json(), (await store.get("begun")).length
    assert answer["conversation_id"] == "begun"
    assert length == 2


async def _request(client, turn):
    from dataclasses import asdict

    from grpo_host.serving.api.chat import ChatRequest

    fields = {**asdict(ChatRequest(**turn).turn()), "idempotency_key": None}
    return idempotency._fingerprint(fields)


async def test_a_claim_is_renewed_while_it_is_answered(replicas, monkeypatch):
    monkeypatch.setattr(idempotency, "LEASE_SECONDS", 0.6)

    async def work():
        async with replicas() as (backend, first, second):
            backend.release.clear()
            body = {"message": "Hello", "idempotency_key": "a"}
            running = asyncio.create_task(first.post(PATH, json=body))
            await asyncio.wait_for(backend.begun.wait(), 60)
            await asyncio.sleep(1.5)  # longer than a lease
            early = (await second.post(PATH, json=body)).status_code
            backend.release.set()
            return early, (await running).status_code, backend.answers

    assert await work() == (409, 200, 1)


async def test_a_key_for_another_request_is_refused_and_another_owner_s_is_another_key(replicas):
    async with replicas() as (_, first, _):
        headers = []
        for owner in ("shop", "lab"):
            _, token = await first.services.keys.create("k", [Scope.CHAT], owner=owner)
            headers.append({"authorization": f"Bearer {token}"})
        first.services.keys.forget()
        body = {"message": "Hello", "idempotency_key": "a"}
        mine = await first.post(PATH, json=body, headers=headers[0])
        other = await first.post(PATH, json={**body, "message": "Bye"}, headers=headers[0])
        theirs = await first.post(PATH, json=body, headers=headers[1])
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert theirs.json()["conversation_id"] != mine.json()["conversation_id"]


async def test_a_stream_that_is_asked_for_again_is_the_whole_answer(replicas):
    async with replicas() as (backend, first, second):
        body = {"message": "Hello", "idempotency_key": "a", "stream": True}
        (first, again), thought = (
            [(await client.post(PATH, json=body)).text for client in (first, second)],
            backend.answers,
        )
    last, same = (json.loads(text.strip().splitlines()[-1].removeprefix("data: ")) for text in (first, again))
    assert last == same
    assert last["response"] == "answer 1"
    assert thought == 1


async def test_with_the_conversation_its_kept_answer_goes_too(replicas):
    async with replicas() as (_, first, _):
        body = {"message": "Hello", "idempotency_key": "a"}
        made = (await first.post(PATH, json=body)).json()["conversation_id"]
        await first.delete(f"/api/conversations/{made}")
        again = (await first.post(PATH, json=body)).json()
    assert again["response"] == "answer 2"
    assert again["conversation_id"] != made


@pytest.mark.parametrize(
    ("header", "field", "why"),
    [("", None, "1 to 255 letters"), ("x" * 256, None, "1 to 255 letters"), ("a", "b", "differ; send one")],
)
async def test_a_header_that_cannot_be_kept_is_refused(replicas, header, field, why):
    async with replicas() as (_, first, _):
        body = {"message": "Hello", **({"idempotency_key": field} if field else {})}
        refused = await first.post(PATH, json=body, headers={"idempotency-key": header})
    assert refused.status_code == 400
    assert why in refused.json()["error"]["message"]

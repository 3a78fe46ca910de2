from __future__ import annotations

import asyncio

import pytest

from grpo_host.serving.access.caller import Scope

HELLO = {"text": "hello"}


async def test_without_any_key_this_machine_is_served(serving):
    async with serving() as server:
        answer = await server.client.post("/api/say", json=HELLO)
        assert (answer.status_code, answer.json()) == (200, {"text": "hello", "seconds": 0.0})


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("192.0.2.7", {}),
        ("127.0.0.1", {"x-forwarded-for": "192.0.2.7"}),
        ("127.0.0.1", {"forwarded": "for=192.0.2.7"}),
        ("127.0.0.1", {"via": "1.1 proxy"}),
        ("127.0.0.1", {"x-forwarded-proto": "https"}),
    ],
    ids=["another machine", "a proxy", "a proxy of the other kind", "a quiet proxy", "a terse proxy"],
)
async def test_without_any_key_nobody_else_is(serving, address, headers):
    async with serving() as server, server.from_address(address) as client:
        answer = await client.post("/api/say", json=HELLO, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert server.handled == []


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1.evil.example"},
        {"sec-fetch-site": "cross-site"},
    ],
    ids=str,
)
async def test_without_any_key_a_page_of_another_site_may_not_call(serving, headers):
    async with serving() as server:
        answer = await server.client.post("/api/say", json=HELLO, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        own = await server.client.post("/api/say", json=HELLO, headers={"origin": "http://127.0.0.1"})
        assert own.status_code == 200


async def test_a_server_that_listens_elsewhere_serves_nobody_without_a_key(serving):
    async with serving(host="0.0.0.0") as server:
        assert (await server.client.post("/api/say", json=HELLO)).status_code == 401


async def test_once_there_is_a_key_it_is_needed_even_after_it_was_revoked(serving):
    async with serving() as server:
        headers = await server.key("chat")
        assert (await server.client.post("/api/say", json=HELLO)).status_code == 401
        assert (await server.client.post("/api/say", json=HELLO, headers=headers)).status_code == 200
        (record,) = await server.services.keys.list()
        assert await server.services.keys.revoke(record.id)
        server.services.keys.forget()
        assert (await server.client.post("/api/say", json=HELLO, headers=headers)).status_code == 401
        assert (await server.client.post("/api/say", json=HELLO)).status_code == 401


@pytest.mark.parametrize(("have", "status"), [("chat", 403), ("train", 500), ("admin", 403)])
async def test_a_key_opens_what_its_scopes_say(serving, have, status):
    async with serving() as server:
        answer = await server.client.get("/api/fail", headers=await server.key(have))
        assert answer.status_code == status


async def test_only_the_whole_key_is_taken(serving):
    async with serving(failed_rate="100000/minute") as server:
        token = (await server.key("chat"))["authorization"].removeprefix("Bearer ")
        other = (await server.key("chat"))["authorization"].removeprefix("Bearer ")
        identifier, secret = token.split("_", 2)[1:]
        wrong = [
            token[:-1],
            token + "x",
            token[:-1] + ("A" if token[-1] != "A" else "B"),
            token.upper(),
            f"grpo_{other.split('_', 2)[1]}_{secret}",
            f"grpo_{identifier}_",
            secret,
            identifier,
            f"{token} {token}",
            f"{token},{other}",
            "",
            "' OR 1=1 --",
            "\x00",
            "é",
        ]
        for given in wrong:
            for scheme in ("Bearer", "Basic", "bearer"):
                headers = {"authorization": f"{scheme} {given}".encode("latin-1")}
                answer = await server.client.post("/api/say", json=HELLO, headers=headers)
                assert answer.status_code == 401, (scheme, given)
        basic = await server.client.post("/api/say", json=HELLO, headers={"authorization": f"Basic {token}"})
        twice = await server.client.post(
            "/api/say",
            json=HELLO,
            headers=[("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")],
        )
        elsewhere = await server.client.post(
            f"/api/say?key={token}&access_token={token}", json=HELLO, headers={"x-api-key": token}
        )
        assert [basic.status_code, twice.status_code, elsewhere.status_code] == [401, 401, 401]
        assert server.handled == []
        lower = await server.client.post("/api/say", json=HELLO, headers={"authorization": f"bearer {token}"})
        assert lower.status_code == 200


async def test_who_comes_with_wrong_keys_is_slowed_down_and_who_has_one_is_not(serving):
    async with serving(failed_rate="3/minute") as server:
        headers = await server.key("chat")
        assert (await server.client.post("/api/say", json=HELLO, headers=headers)).status_code == 200
        tried = []
        for number in range(5):
            wrong = {"authorization": f"Bearer grpo_{number:016x}_{'a' * 43}"}
            tried.append(await server.client.post("/api/say", json=HELLO, headers=wrong))
        assert [answer.status_code for answer in tried] == [401, 401, 401, 429, 429]
        assert 1 <= int(tried[-1].headers["retry-after"]) <= 61
        assert (await server.client.post("/api/say", json=HELLO, headers=headers)).status_code == 200
        server.services.keys.forget()  # as after five seconds, or a restart
        assert (await server.client.post("/api/say", json=HELLO, headers=headers)).status_code == 200


async def test_a_database_that_does_not_answer_lets_nobody_in(serving, tmp_path):
    async with serving() as server:
        headers = await server.key("chat")
        await server.services.database.dispose()
        for file in (tmp_path / "state").iterdir():
            file.unlink()
        (tmp_path / "state").rmdir()
        answer = await server.client.post("/api/say", json=HELLO, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert str(tmp_path) not in answer.text
        assert server.handled == []
        await asyncio.sleep(0.1)  # aiosqlite's thread says that it could not open the file


def test_the_anonymous_caller_has_every_scope():
    from grpo_host.serving.access.caller import ANONYMOUS, NOBODY

    assert all(ANONYMOUS.may(scope) and not NOBODY.may(scope) for scope in Scope)

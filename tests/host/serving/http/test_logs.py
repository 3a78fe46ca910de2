from __future__ import annotations

import logging
import time

import pytest
import websockets
from websockets.asyncio.client import connect

from grpo_host.serving.access.caller import Scope
from grpo_host.serving.http.logs import RedactingFormatter


@pytest.mark.parametrize(
    ("told", "logged"),
    [
        (
            '127.0.0.1:1 - "WebSocket /ws?password=hunter2&a=b" [accepted]',
            '127.0.0.1:1 - "WebSocket /ws" [accepted]',
        ),
        ('127.0.0.1:1 - "WebSocket /ws" 403', '127.0.0.1:1 - "WebSocket /ws" 403'),
        (f"no key grpo_{'0' * 16}_{'A' * 43}, why?", "no key grpo_***, why?"),
    ],
)
def test_a_log_holds_neither_keys_nor_queries(told, logged):
    record = logging.LogRecord("uvicorn.error", logging.INFO, __file__, 1, told, None, None)
    assert RedactingFormatter("%(message)s").format(record) == logged


@pytest.fixture
def told(caplog):
    """The lines of the access log."""
    caplog.set_level(logging.INFO, logger="grpo_host.serving.access")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "grpo_host.serving.access"]


async def key(server, **options):
    record, token = await server.services.keys.create("web shop", [Scope.CHAT], **options)
    server.services.keys.forget()
    return record, {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("how", ["limited", "revoked", "expired", "forbidden"])
async def test_a_refused_request_names_its_key_in_the_log_and_not_its_secret(serving, told, how):
    async with serving(rate="1/minute" if how == "limited" else None) as server:
        expires = time.time() - 1 if how == "expired" else None
        record, headers = await key(server, expires=expires)
        if how == "limited":
            await server.client.get("/nothing", headers=headers)
        if how == "revoked":
            await server.services.keys.revoke(record.id)
        answer = await server.client.get("/api/fail", headers=headers)
        status = answer.status_code
        secret = headers["authorization"].split("_", 2)[2]  # it may have a "_" of its own
    assert status == {"limited": 429, "revoked": 401, "expired": 401, "forbidden": 403}[how]
    assert f"{status} " in told()[-1]
    assert f"key='web shop' ({record.id})" in told()[-1]
    assert secret not in "".join(told())


async def test_a_wrong_secret_names_no_key(serving, told):
    """Else anybody could put another's name into the log."""

    async with serving() as server:
        record, _ = await key(server)
        headers = {"authorization": f"Bearer grpo_{record.id}_{'a' * 43}"}
        await server.client.get("/nothing", headers=headers)
    assert "key=- " in told()[-1]


async def test_a_refused_websocket_names_its_key_in_the_log(listening, told):
    async with listening() as (server, url):
        record, headers = await key(server)
        await server.services.keys.revoke(record.id)
        with pytest.raises(websockets.InvalidStatus):
            await connect(url, additional_headers=headers)
    [line] = told()
    assert line.startswith(f"WEBSOCKET /ws 401 unauthorized key='web shop' ({record.id}) request=")


async def test_a_websocket_too_many_names_its_key_in_the_log(listening, told):
    async with listening(max_websockets=1) as (server, url):
        record, headers = await key(server)
        async with connect(url, additional_headers=headers):
            with pytest.raises(websockets.InvalidStatus):
                await connect(url, additional_headers=headers)
    assert told()[-1].startswith(f"WEBSOCKET /ws 429 overloaded key='web shop' ({record.id}) request=")

from __future__ import annotations

import asyncio
import http.client

import pytest
import websockets
from websockets.asyncio.client import connect

from grpo_host.serving.access.caller import Scope
from grpo_host.serving.http.endpoint import SocketEndpoint


async def said(socket, text="hello"):
    await socket.send(text)
    return await asyncio.wait_for(socket.recv(), 60)


AUTH = '{{"type": "auth", "data": {{"key": "{}"}}}}'


async def test_the_key_comes_in_a_header_a_subprotocol_or_the_first_message(listening):
    async with listening() as (server, url):
        headers = await server.key("chat")
        token = headers["authorization"].removeprefix("Bearer ")
        async with connect(url, additional_headers=headers) as socket:
            assert await said(socket) == "test hello"
        async with connect(url, subprotocols=["grpo", f"bearer.{token}"]) as socket:
            assert socket.subprotocol == "grpo"  # the key is not sent back
            assert await said(socket) == "test hello"
        async with connect(url) as socket:
            await socket.send(AUTH.format(token))
            assert await said(socket) == "test hello"


@pytest.mark.parametrize("how", ["header", "subprotocol", "scope"])
async def test_a_bad_key_is_refused_before_the_socket_is_accepted(listening, how, caplog):
    async with listening() as (server, url):
        bad = f"grpo_{'0' * 16}_{'a' * 43}"
        train = await server.key("train")
        options = {
            "header": {"additional_headers": {"authorization": f"Bearer {bad}"}},
            "subprotocol": {"subprotocols": ["grpo", f"bearer.{bad}"]},
            "scope": {"additional_headers": train},
        }[how]
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(url, **options)
        assert refused.value.response.status_code == (403 if how == "scope" else 401)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    "first",
    [
        "hello",
        "{}",
        "[]",
        "null",
        '{"type": "auth"}',
        '{"type": "auth", "data": {"key": 5}}',
        '{"type": "auth", "data": []}',
        '{"type": "chat", "data": {"message": "hi"}}',
        AUTH.format("grpo_0000000000000000_" + "a" * 43),
        b"\x00\xff",
        None,
    ],
    ids=str,
)
async def test_without_a_good_first_message_the_socket_is_closed(listening, first, monkeypatch):
    monkeypatch.setattr("grpo_host.serving.access.auth.FIRST_MESSAGE_SECONDS", 0.3)

    async with listening() as (server, url):
        await server.key("chat")
        async with connect(url) as socket:
            if first is not None:
                await socket.send(first)
            error = await asyncio.wait_for(socket.recv(), 60)
            assert '"code":"unauthorized"' in error
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd.code == 1008


async def test_pages_of_other_origins_are_refused_even_with_a_key(listening):
    async with listening(allowed_origins=["https://app.example"]) as (server, url):
        headers = await server.key("chat")
        own = url.replace("ws:", "http:").removesuffix("/ws")
        for origin, status in (
            ("https://evil.example", 403),
            ("null", 403),
            (own, None),
            ("https://app.example", None),
        ):
            try:
                async with connect(url, additional_headers=headers, origin=origin) as socket:
                    assert await said(socket) == "test hello"
                got = None
            except websockets.InvalidStatus as refused:
                got = refused.response.status_code
            assert got == status, origin


async def test_without_any_key_this_machine_needs_none(listening):
    async with listening() as (_, url), connect(url) as socket:
        assert await said(socket) == "anonymous hello"


async def test_another_path_is_no_socket(listening):
    async with listening() as (server, url):
        headers = await server.key("chat")
        for path in ("/", "/ws/", "/WS", "//ws", "/api/say"):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(url.removesuffix("/ws") + path, additional_headers=headers)
            assert refused.value.response.status_code in (401, 403, 404), path


async def test_open_sockets_are_bounded_and_a_closed_one_makes_room(listening):
    async with listening(max_websockets=2) as (_, url):
        async with connect(url) as one, connect(url) as two:
            assert await said(one) == await said(two)
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(url)
            assert refused.value.response.status_code == 429
            assert "retry-after" in refused.value.response.headers
        await asyncio.sleep(0.1)
        async with connect(url) as socket:
            assert await said(socket)


async def test_at_the_end_open_sockets_are_told_and_new_ones_refused(listening):
    async with listening() as (server, url), connect(url) as socket:
        assert await said(socket)
        await server.services.drain(0.2)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), 60)
        assert closed.value.rcvd.code == 1001
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(url)
        assert refused.value.response.status_code == 503


async def test_a_handler_that_fails_closes_the_socket_and_tells_nothing(listening):
    async def fail(websocket, key, services):
        raise ZeroDivisionError("secret inside")

    routes = [SocketEndpoint("/ws", fail, Scope.CHAT, "Fail")]
    async with listening(websocket_routes=routes) as (_, url), connect(url) as socket:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "internal_error")


async def test_a_socket_may_not_be_opened_under_another_name(listening):
    async with listening() as (_, url):
        port = int(url.split(":")[2].split("/")[0])

        def handshake():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            headers = {
                "Host": "evil.example",
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version": "13",
            }
            connection.request("GET", "/ws", headers=headers)
            status = connection.getresponse().status
            connection.close()
            return status

        assert await asyncio.to_thread(handshake) == 400


async def status_of_refusal(url, **options):
    with pytest.raises(websockets.InvalidStatus) as refused:
        await connect(url, **options)
    return refused.value.response.status_code


async def test_one_key_has_half_of_the_sockets(listening):
    async with listening(max_websockets=4) as (server, url):
        mine = {"additional_headers": await server.key("chat")}
        other = {"additional_headers": await server.key("chat")}
        async with connect(url, **mine), connect(url, **mine) as socket:
            assert await status_of_refusal(url, **mine) == 429
            assert await said(socket)
            async with connect(url, **other) as theirs:
                assert await said(theirs)


async def test_sockets_without_a_key_leave_room_for_those_with_one(listening):
    async with listening(max_websockets=4) as (server, url):
        headers = await server.key("chat")
        token = headers["authorization"].removeprefix("Bearer ")
        async with connect(url):  # and says nothing
            assert await status_of_refusal(url) == 429
            async with connect(url, additional_headers=headers) as socket:
                assert await said(socket)
        await asyncio.sleep(0.1)
        async with connect(url) as socket:
            await socket.send(AUTH.format(token))
            assert await said(socket)
            async with connect(url):
                pass  # who has said its key is not counted with those who have not


async def test_a_first_message_with_a_valid_key_is_good_where_others_of_the_address_failed(listening):
    async with listening(failed_rate="2/minute") as (server, url):
        token = (await server.key("chat"))["authorization"].removeprefix("Bearer ")
        bad = f"grpo_{'0' * 16}_{'a' * 43}"
        for expected in ("unauthorized", "unauthorized", "rate_limited"):
            async with connect(url) as socket:
                await socket.send(AUTH.format(bad))
                assert f'"code":"{expected}"' in await asyncio.wait_for(socket.recv(), 60)
        async with connect(url) as socket:
            await socket.send(AUTH.format(token))
            assert await said(socket) == "test hello"


async def test_a_socket_of_a_key_that_has_too_many_is_told_so_after_its_first_message(listening):
    async with listening(max_websockets=2) as (server, url):
        headers = await server.key("chat")
        token = headers["authorization"].removeprefix("Bearer ")
        async with connect(url, additional_headers=headers), connect(url) as socket:
            await socket.send(AUTH.format(token))
            assert '"code":"too_many_at_once"' in await asyncio.wait_for(socket.recv(), 60)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd.code == 1013


async def test_at_the_end_a_busy_socket_is_told_too_and_it_is_no_error(listening, caplog):
    async def busy(websocket, key, services):
        await websocket.send_text("busy")
        await asyncio.sleep(60)

    routes = [SocketEndpoint("/ws", busy, Scope.CHAT, "Busy")]
    async with listening(websocket_routes=routes) as (server, url), connect(url) as socket:
        assert await socket.recv() == "busy"
        await server.services.drain(0.1)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(socket.recv(), 60)
        assert closed.value.rcvd.code == 1001
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []

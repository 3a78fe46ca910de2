"""Clients that do not play fair, over real sockets, on the event loop that ``grpo-host serve`` runs on."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from contextlib import suppress

import httpx
import pytest
import uvloop
import websockets
from starlette.responses import Response
from websockets.asyncio.client import connect

from grpo_host.serving.access.caller import Scope
from grpo_host.serving.http.endpoint import Endpoint

pytestmark = pytest.mark.slow

LARGE = 4 * 1024 * 1024


@pytest.fixture
def large(monkeypatch):
    """Endpoints whose answers are more than the kernel holds for a client, and little patience."""
    monkeypatch.setattr("grpo_host.serving.http.unread_limit.SEND_SECONDS", 0.6)

    async def handler(call):
        return Response(b"x" * LARGE)

    async def stream(call):
        from starlette.responses import StreamingResponse

        async def pieces():
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)

        return StreamingResponse(pieces())

    return [
        Endpoint("GET", "/api/large", handler, Scope.CHAT, "Large", content_type="text/plain"),
        Endpoint("GET", "/docs", handler, None, "Large, and anyone may ask", content_type="text/plain"),
        Endpoint("GET", "/api/endless", stream, Scope.CHAT, "Endless", content_type="text/plain"),
    ]


def port_of(url):
    return int(url.split(":")[2].split("/")[0])


async def unread(url, data, window=4096):
    """A connection on which ``data`` was sent and nothing is read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    client.settimeout(5)
    await asyncio.to_thread(client.connect, ("127.0.0.1", port_of(url)))
    await asyncio.to_thread(client.sendall, data)
    return client


async def read_to_the_end(client):
    """How many bytes come before the connection ends; raises ConnectionResetError where it is cut."""
    size = 0
    while data := await asyncio.to_thread(client.recv, 65536):
        size += len(data)
    return size


def get(path, times=1):
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() * times


async def cut(client):
    try:
        return await read_to_the_end(client) < LARGE
    except ConnectionResetError:
        return True
    finally:
        client.close()


@pytest.mark.parametrize("path", ["/api/large", "/docs", "/api/endless"])
def test_a_connection_whose_answers_nobody_reads_is_cut_with_all_that_was_asked_on_it(
    listening, large, path, eventually
):
    async def work():
        async with listening(endpoints=large, max_concurrency=3) as (server, url):
            clients = [await unread(url, get(path, times=50)) for _ in range(3)]
            await asyncio.sleep(1.5)
            await eventually(lambda: server.services.admission.under_way == 0)
            assert all([await cut(client) for client in clients])

    uvloop.run(work())


@pytest.mark.timeout(30)
def test_a_client_that_reads_nothing_does_not_hold_the_end_of_the_server(listening, large, monkeypatch):
    monkeypatch.setattr("grpo_host.serving.http.unread_limit.SEND_SECONDS", 60)
    monkeypatch.setattr("grpo_host.serving.server.CLOSE_SECONDS", 2)
    held = []

    async def work():
        async with listening(endpoints=large) as (_, url):
            held.append(await unread(url, get("/docs")))
            held.append(await unread(url, HANDSHAKE))
            await asyncio.sleep(0.2)

    uvloop.run(work())
    for client in held:
        client.close()


def test_an_answer_that_is_done_holds_no_place_while_it_is_read(listening, large, monkeypatch):
    monkeypatch.setattr("grpo_host.serving.http.unread_limit.SEND_SECONDS", 30)

    async def work():
        async with (
            listening(endpoints=large, max_concurrency=1, max_queue=0) as (_, url),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_of(url)}") as client,
        ):
            slow = await unread(url, get("/api/large"))
            assert await asyncio.to_thread(slow.recv, 15) == b"HTTP/1.1 200 OK"
            assert (await client.get("/api/large")).status_code == 200
            slow.close()

    uvloop.run(work())


def test_a_client_that_reads_slowly_gets_its_whole_answer(listening, large):
    async def work():
        async with listening(endpoints=large) as (_, url):
            asked = get("/api/large").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            client = await unread(url, asked, window=65536)
            size, began = 0, time.perf_counter()
            while data := await asyncio.to_thread(client.recv, 65536):
                size += len(data)
                await asyncio.sleep(0.03)
            assert size > LARGE
            assert time.perf_counter() - began > 1.2  # longer than one who reads nothing has
            client.close()

    uvloop.run(work())


def test_a_full_server_says_so_and_still_answers_probes(listening):
    async def work():
        async with listening(max_connections=2) as (_, url):
            address = f"http://127.0.0.1:{port_of(url)}"
            held = [await asyncio.open_connection("127.0.0.1", port_of(url)) for _ in range(2)]
            await asyncio.sleep(0.05)
            async with httpx.AsyncClient(base_url=address) as client:
                refused = await client.get("/docs")
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "overloaded"
                assert refused.headers["retry-after"] == "5"
                assert refused.headers["connection"] == "close"
                for probe in ("/health", "/health/live", "/health/ready"):
                    assert (await client.get(probe)).status_code == 200, probe
            with pytest.raises(websockets.InvalidStatus) as closed:
                await connect(url)
            assert closed.value.response.status_code == 503
            for _, writer in held:
                writer.close()
            await asyncio.sleep(0.05)
            async with httpx.AsyncClient(base_url=address) as client:
                assert (await client.get("/docs")).status_code == 200

    uvloop.run(work())


def test_beyond_the_reserve_connections_are_cut(listening, monkeypatch):
    monkeypatch.setattr("grpo_host.serving.http.protocol.RESERVE", 1)
    monkeypatch.setattr("grpo_host.serving.http.protocol.HEAD_SECONDS", 600)

    async def work():
        async with listening(max_connections=1) as (_, url):
            held = [await asyncio.open_connection("127.0.0.1", port_of(url)) for _ in range(2)]
            await asyncio.sleep(0.05)
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 60)
            for _, other in [*held, (reader, writer)]:
                other.close()

    uvloop.run(work())


HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, FRAGMENT, MORE, LAST, PING = 0x81, 0x01, 0x00, 0x80, 0x89


def frame(head, data=b""):
    """As a client sends it: masked, here with zeros."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack("!H", len(data))
    return bytes([head]) + size + bytes(4) + data


async def sent_before_it_blocks_or_ends(client, data, most):
    """How much of ``data``, sent again and again, a server takes from a client that reads nothing."""
    size = 0
    try:
        while size < most:
            await asyncio.to_thread(client.sendall, data)
            size += len(data)
    except (ConnectionError, TimeoutError):
        pass
    return size


@pytest.mark.parametrize("before", [b"", get("/docs")], ids=["", "unread answer"])
@pytest.mark.parametrize(
    "sent", [frame(PING, b"x" * 100) * 300, frame(TEXT, b"x" * 1000) * 30], ids=["pings", "texts"]
)
def test_a_websocket_that_sends_and_never_reads_is_not_heard_on_and_cut(
    listening, large, monkeypatch, before, sent, eventually
):
    monkeypatch.setattr("grpo_host.serving.http.unread_limit.SEND_SECONDS", 2)

    async def work():
        async with listening(endpoints=large) as (server, url):
            client = await unread(url, before)
            await asyncio.sleep(0.1 if before else 0)
            await asyncio.to_thread(client.sendall, HANDSHAKE)
            most = 256 * 1024 * 1024
            size = await sent_before_it_blocks_or_ends(client, sent, most)
            assert size < most / 4
            await cut(client)
            await eventually(lambda: server.services.admission.under_way == 0)

    uvloop.run(work())


def test_a_websocket_that_reads_on_is_heard_on(listening):
    async def work():
        async with listening() as (_, url):
            client = await unread(url, HANDSHAKE, window=65536)
            client.settimeout(60)
            pings = frame(PING, b"x" * 100) * 150_000
            sent = asyncio.create_task(asyncio.to_thread(client.sendall, pings + frame(TEXT, b"hello")))
            await asyncio.sleep(0.5)
            assert not sent.done()  # neither end takes more
            heard = b""
            while b"anonymous hello" not in heard:
                heard = heard[-100:] + await asyncio.to_thread(client.recv, 65536)
            await sent
            client.close()

    uvloop.run(work())


def test_a_websocket_that_reads_may_ping_as_often_as_it_likes(listening):
    async def work():
        async with listening() as (_, url), connect(url) as client:
            pongs = [await client.ping(os.urandom(8)) for _ in range(2000)]
            await asyncio.wait_for(asyncio.gather(*pongs), 60)
            await client.send("hello")
            assert await asyncio.wait_for(client.recv(), 60) == "anonymous hello"

    uvloop.run(work())


@pytest.mark.parametrize(
    "sent", [frame(TEXT) * 2000, frame(FRAGMENT) + frame(MORE) * 2000], ids=["messages", "fragments"]
)
def test_a_websocket_whose_messages_pile_up_is_closed(listening, sent, eventually):
    reason = b"too many messages or fragments at once"

    async def work():
        async with listening() as (server, url):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
            writer.write(HANDSHAKE)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            heard = await asyncio.wait_for(reader.read(), 60)
            assert heard.endswith(struct.pack("!BBH", 0x88, 2 + len(reason), 1008) + reason)
            writer.close()
            await eventually(lambda: server.services.admission.under_way == 0)

    uvloop.run(work())


def test_a_text_that_is_not_utf8_closes_the_socket_and_is_no_error(listening, eventually, caplog):
    reason = b"a text is not UTF-8"

    async def work():
        async with listening() as (server, url):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
            writer.write(HANDSHAKE)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(frame(FRAGMENT, b"h\xff") + frame(LAST, b"i"))
            heard = await asyncio.wait_for(reader.read(), 60)
            assert heard.endswith(struct.pack("!BBH", 0x88, 2 + len(reason), 1007) + reason)
            writer.close()
            await eventually(lambda: server.services.admission.under_way == 0)

    uvloop.run(work())
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []


def test_a_message_in_many_pieces_is_one_message(listening):
    async def work():
        async with listening() as (_, url), connect(url) as client:
            await client.send(["he", *["l"] * 400, "o"])
            assert await asyncio.wait_for(client.recv(), 60) == f"anonymous he{'l' * 400}o"

    uvloop.run(work())


def resets(client):
    """Close it so that the server sees a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def say(text, seconds=0.0):
    body = b'{"text": "%b", "seconds": %g}' % (text.encode(), seconds)
    head = f"POST /api/say HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + body


@pytest.mark.parametrize("ahead", [get("/health/live"), get("/health/live", times=50_000), HANDSHAKE])
def test_a_request_ahead_of_an_answer_is_dropped_and_the_connection_closed_after_it(listening, ahead):
    async def work():
        async with listening() as (server, url):
            client = await unread(url, say("first", 0.2) + ahead, window=65536)
            answer = await asyncio.to_thread(client.recv, 65536)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert b"connection: close" in answer
            await asyncio.sleep(0.1)
            with suppress(ConnectionResetError):
                assert await read_to_the_end(client) == 0
            assert server.handled == ["say first"]
            client.close()

    uvloop.run(work())


def test_one_connection_carries_many_requests_one_after_another(listening):
    async def work():
        async with listening() as (_, url):
            client = await unread(url, b"", window=65536)
            for _ in range(20):
                await asyncio.to_thread(client.sendall, get("/health/live"))
                assert (await asyncio.to_thread(client.recv, 65536)).startswith(b"HTTP/1.1 200 OK")
            client.close()

    uvloop.run(work())


HEADS = [
    pytest.param(b"GET / HTTP/1.1\r\nHost: ", b"x" * 4096, 30.0, id="endless header"),
    pytest.param(b"GET /", b"x" * 4096, 30.0, id="endless path"),
    pytest.param(b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 500, 30.0, id="headers without end"),
    pytest.param(b"", b"", 0.3, id="nothing"),
    pytest.param(b"GET / HTTP/1.1\r\n", b"", 0.3, id="half a head"),
]


@pytest.mark.parametrize(("first", "more", "seconds"), HEADS)
def test_a_head_is_bounded_in_size_and_time(listening, monkeypatch, first, more, seconds):
    monkeypatch.setattr("grpo_host.serving.http.protocol.HEAD_SECONDS", seconds)

    async def work():
        async with listening() as (_, url):
            client = await unread(url, first, window=65536)
            if more:
                most = 16 * 1024 * 1024
                assert await sent_before_it_blocks_or_ends(client, more, most) < most
            assert await cut(client)

    uvloop.run(work())


def test_a_client_that_goes_away_with_requests_ahead_of_it_ends_the_one_that_is_answered(
    listening, eventually
):
    async def work():
        async with listening(max_concurrency=1, max_queue=0) as (server, url):
            client = await unread(url, say("slow", 3600) + get("/health/live", times=3))
            await eventually(lambda: server.handled == ["say slow"])
            resets(client)
            await eventually(lambda: server.handled == ["say slow", "cancelled"])
            await eventually(lambda: server.services.admission.under_way == 0)

    uvloop.run(work())


TRAILERS = b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"abcd: efgh\r\n" * 6000
UNFINISHED = b"Content-Length: 1000000\r\n\r\n{", b"x"


@pytest.mark.parametrize(("rest", "more", "seconds"), [(*TRAILERS, 30.0), (*UNFINISHED, 0.3)])
def test_what_follows_an_answer_that_came_early_is_bounded(listening, monkeypatch, rest, more, seconds):
    monkeypatch.setattr("grpo_host.serving.http.protocol.HEAD_SECONDS", seconds)

    async def work():
        async with listening() as (server, url):
            await server.key("chat")
            client = await unread(url, b"POST /api/say HTTP/1.1\r\nHost: 127.0.0.1\r\n" + rest, window=65536)
            assert (await asyncio.to_thread(client.recv, 12)) == b"HTTP/1.1 401"
            with suppress(OSError):
                await asyncio.to_thread(client.sendall, more)
            assert await cut(client)  # and not kept until its client has timed out

    uvloop.run(work())


def test_an_answer_is_not_cut_short_for_what_came_behind_its_request(listening, monkeypatch):
    monkeypatch.setattr("grpo_host.serving.http.protocol.HEAD_SECONDS", 0.2)

    async def work():
        async with listening() as (_, url):
            client = await unread(url, say("slow", 0.8))
            await asyncio.to_thread(client.sendall, b"\r\n")
            assert (await asyncio.to_thread(client.recv, 15)) == b"HTTP/1.1 200 OK"
            client.close()

    uvloop.run(work())


@pytest.mark.parametrize("sent", [HANDSHAKE, HANDSHAKE + frame(PING) * 3, HANDSHAKE + frame(TEXT, b"\xff")])
def test_a_websocket_that_breaks_off_its_handshake_leaves_nothing_behind(listening, sent, eventually):
    async def work():
        async with listening() as (server, url):
            for pause in (0, 0.001, 0.005) * 5:
                client = await unread(url, sent)
                await asyncio.sleep(pause)
                resets(client)
            await asyncio.sleep(0.2)
            await eventually(lambda: server.services.admission.under_way == 0)

    uvloop.run(work())

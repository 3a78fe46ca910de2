"""The HTTP client against a server that answers with raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("httptools")
from grpo_backends.errors import HttpError
from grpo_backends.keepalive import KeepAliveClient

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Script = Callable[[int, int, Writer], Awaitable[None]]
"""Connection number, request number on it, and where to answer."""


def answer(body: bytes, head: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


async def talk(script: Script, use: Callable[[KeepAliveClient], Awaitable[Any]], **options: Any) -> Any:
    """What ``use`` returns, and how many connections the server saw."""

    connections = 0

    async def serve(reader: Reader, writer: Writer) -> None:
        nonlocal connections
        connections += 1
        mine, requests = connections, 0
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                requests += 1
                await script(mine, requests, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    options.setdefault("timeout", 5.0)
    client = KeepAliveClient(f"http://127.0.0.1:{port}/v1", **options)
    try:
        return await use(client), connections
    finally:
        client.close()
        server.close()
        await asyncio.sleep(0.01)


async def once(client: KeepAliveClient) -> bytes:
    return (await client.post("/x", b"{}")).body


async def twice(client: KeepAliveClient) -> list[bytes]:
    first = await once(client)
    await asyncio.sleep(0.02)
    return [first, await once(client)]


async def says(body: bytes, writer: Writer) -> None:
    writer.write(answer(body))


async def test_a_connection_is_used_again() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(answer(f"{connection}.{request}".encode()))

    assert await talk(script, twice) == ([b"1.1", b"1.2"], 1)


async def test_many_requests_share_the_allowed_connections() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        await asyncio.sleep(0.005)
        writer.write(answer(b"ok"))

    async def many(client: KeepAliveClient) -> list[bytes]:
        return await asyncio.gather(*(once(client) for _ in range(20)))

    assert await talk(script, many, max_connections=4) == ([b"ok"] * 20, 4)


async def test_an_idle_connection_that_the_server_closed_is_replaced() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(answer(b"ok"))
        await writer.drain()
        writer.close()

    assert await talk(script, twice) == ([b"ok", b"ok"], 2)


async def test_a_connection_that_dies_as_it_is_used_again_is_tried_once_more() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        if connection == 1 and request == 2:
            writer.transport.abort()
        else:
            writer.write(answer(b"ok"))

    assert await talk(script, twice) == ([b"ok", b"ok"], 2)


async def test_a_server_that_closes_at_the_first_request_is_not_asked_again() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.transport.abort()

    with pytest.raises(HttpError, match="closed before the answer"):
        await talk(script, once)


async def test_a_server_that_says_close_is_not_asked_again_on_that_connection() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(answer(b"ok", "Connection: close\r\n"))

    assert await talk(script, twice) == ([b"ok", b"ok"], 2)


async def test_a_chunked_answer_in_pieces_is_put_together() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(b"2\r\nde\r\n0\r\n\r\n")

    assert await talk(script, twice) == ([b"abcde", b"abcde"], 1)


async def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        await writer.drain()
        writer.close()

    assert (await talk(script, once))[0] == b"all of it"


async def test_an_interim_answer_is_passed_over() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"ok"))

    assert (await talk(script, once))[0] == b"ok"


async def test_a_connection_closed_in_the_middle_of_an_answer_is_an_error() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    with pytest.raises(HttpError, match="in the middle of the answer"):
        await talk(script, once)


async def test_what_is_not_http_is_an_error() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")

    with pytest.raises(HttpError, match="is not HTTP"):
        await talk(script, once)


async def test_a_body_over_the_limit_is_an_error() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(answer(b"x" * 5000))

    with pytest.raises(HttpError, match="longer than 1000 bytes"):
        await talk(script, once, max_body=1000)


async def test_a_body_that_does_not_end_in_time_is_an_error() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        for _ in range(100):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    with pytest.raises(HttpError, match=r"no answer within 0\.2 s"):
        await talk(script, once, timeout=0.2)


async def test_each_request_of_a_kept_connection_has_the_whole_time() -> None:
    times: list[float] = []

    async def script(connection: int, request: int, writer: Writer) -> None:
        await asyncio.sleep(0.25 if request < 4 else 5)
        writer.write(answer(b"ok"))

    async def ask_four_times(client: KeepAliveClient) -> None:
        for _ in range(4):
            times.append(asyncio.get_running_loop().time())
            await once(client)

    with pytest.raises(HttpError, match=r"no answer within 0\.4 s"):
        await talk(script, ask_four_times, timeout=0.4)
    assert len(times) == 4  # the second and third ended after the first one's limit
    assert 0.39 < asyncio.get_running_loop().time() - times[-1] < 2


async def test_a_cancelled_request_gives_up_its_connection_and_its_place() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        if connection == 1:
            await asyncio.sleep(1.0)
        writer.write(answer(b"ok"))

    async def cancel_then_ask(client: KeepAliveClient) -> bytes:
        task = asyncio.create_task(once(client))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await asyncio.wait_for(once(client), 0.5)

    assert await talk(script, cancel_then_ask, max_connections=1) == (b"ok", 2)


async def test_a_stream_is_read_as_it_comes_and_its_connection_is_used_again() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"a", b"b"):
            writer.write(b"1\r\n" + piece + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")

    async def read_twice(client: KeepAliveClient) -> list[bytes]:
        read = []
        for _ in range(2):
            async with client.stream("/x", b"{}") as (head, chunks):
                assert head.status == 200
                read += [chunk async for chunk in chunks]
        return read

    assert await talk(script, read_twice) == ([b"a", b"b", b"a", b"b"], 1)


async def test_a_stream_left_early_closes_its_connection() -> None:
    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"rest")

    async def leave(client: KeepAliveClient) -> None:
        for _ in range(2):
            async with client.stream("/x", b"{}") as (_, chunks):
                async for chunk in chunks:
                    assert chunk == b"half"
                    break

    assert await talk(script, leave) == (None, 2)


async def test_a_big_stream_waits_for_its_reader() -> None:
    size = 8 << 20

    async def script(connection: int, request: int, writer: Writer) -> None:
        writer.write(answer(b"x" * size))

    async def slowly(client: KeepAliveClient) -> int:
        read = 0
        async with client.stream("/x", b"{}") as (_, chunks):
            await asyncio.sleep(0.05)
            async for chunk in chunks:
                read += len(chunk)
                assert len(chunk) < size / 2
        return read

    assert (await talk(script, slowly))[0] == size


async def test_nobody_listening_is_an_error_with_the_address() -> None:
    with pytest.raises(HttpError, match=r"127\.0\.0\.1:1: cannot connect"):
        await once_at("http://127.0.0.1:1")


async def once_at(url: str) -> bytes:
    return await once(KeepAliveClient(url))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no http:// or https:// address"):
        KeepAliveClient(url)


def test_a_key_with_a_line_break_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        KeepAliveClient("http://x", headers={"authorization": "Bearer a\r\nx: y"})

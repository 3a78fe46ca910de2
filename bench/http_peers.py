"""Two bare clients that send what an agent sends, without an agent: the limit and a peer of ours.

``BareClient`` speaks just enough HTTP over kept-alive asyncio streams; ``AiohttpClient`` is aiohttp
as anyone would use it. ``play`` is the loop around either: call, run the tool, answer, call again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from bench.tool_episodes import FOUND, QUESTION, SYSTEM, TURNS
from grpo_sdk.messages import ToolSchema

Post = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
PATH = "/v1/chat/completions"


class BareClient:
    """A pool of kept-alive connections, each with one request under way."""

    def __init__(self, host: str, port: int, key: str = "", path: str = PATH) -> None:
        self._address = (host, port)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        if key:
            self._head += f"Authorization: Bearer {key}\r\n"

    async def post(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The JSON that answers ``payload``."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
        body = json.dumps(payload).encode()
        writer.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        start = head.index(b"content-length:") + 15
        answer = await reader.readexactly(int(head[start : head.index(b"\r\n", start)]))
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(answer.decode())
        self._idle.append((reader, writer))
        result: dict[str, Any] = json.loads(answer)
        return result

    async def close(self) -> None:
        """Close the connections."""
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()


class AiohttpClient:
    """One aiohttp session without a limit of connections."""

    def __init__(self, host: str, port: int) -> None:
        self._url = f"http://{host}:{port}{PATH}"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def post(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The JSON that answers ``payload``."""
        async with self._session.post(self._url, json=payload) as response:
            response.raise_for_status()
            result: dict[str, Any] = await response.json()
            return result

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()


async def lookup_order(order_id: str) -> str:
    """The tool."""
    return FOUND


async def play(post: Post, tools: list[ToolSchema]) -> None:
    """One episode: until the model calls no tool. Raises ``RuntimeError`` where it is of another length."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": QUESTION},
    ]
    settings = {"model": "mock", "tools": tools, "max_tokens": 128, "temperature": 1.0}
    turns = 0
    while turns < TURNS:
        turns += 1
        message = (await post({**settings, "messages": messages}))["choices"][0]["message"]
        messages.append(message)
        if not message.get("tool_calls"):
            break
        for call in message["tool_calls"]:
            result = await lookup_order(**json.loads(call["function"]["arguments"]))
            messages.append({"role": "tool", "content": result, "tool_call_id": call["id"]})
    if turns != TURNS or messages[-1]["role"] != "assistant":
        raise RuntimeError(f"an episode of {turns} turns that ends with {messages[-1]}")


async def play_all(post: Post, tools: list[ToolSchema], count: int, *, concurrency: int) -> None:
    """``count`` episodes, ``concurrency`` at a time."""
    gate = asyncio.Semaphore(concurrency)

    async def one() -> None:
        async with gate:
            await play(post, tools)

    await asyncio.gather(*(one() for _ in range(count)))

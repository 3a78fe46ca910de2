"""Client CPU of one chat request, for several HTTP clients, against bench/mock_openai_server.py.

    python bench/http_clients.py --episodes 2000 --concurrency 256 --mean 0.05

Each client runs in a process of its own. The workload: episodes of 4 requests, the last with
three tool calls and results in it. Clients that are not installed are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from grpo_sdk import ModelSpec, Sampling, system, tool_result, user
from grpo_sdk.messages import Message, ToolSchema

TOOL: ToolSchema = {
    "type": "function",
    "function": {
        "name": "lookup_order",
        "description": "Look up an order by its number.",
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string", "description": "The order's number."}},
            "required": ["order_id"],
        },
    },
}
SYSTEM = "You are a support agent. Look orders up before you answer. " * 4
Chat = Callable[[list[Message]], Awaitable[Message]]


def plain_body(messages: list[Message]) -> bytes:
    import orjson

    return orjson.dumps({"model": "mock", "messages": messages, "max_tokens": 128, "tools": [TOOL]})


def message_of(body: bytes) -> Message:
    import orjson

    message: Message = orjson.loads(body)["choices"][0]["message"]
    return message


async def with_backend(url: str) -> Chat:
    from grpo_backends.openai_http import OpenAIChatBackend

    backend = OpenAIChatBackend(ModelSpec("mock"), base_url=url)
    await backend.start()
    sampling = Sampling()

    async def chat(messages: list[Message]) -> Message:
        return (await backend.chat(messages, sampling, [TOOL])).message

    return chat


async def with_aiohttp(url: str) -> Chat:
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    headers = {"content-type": "application/json"}

    async def chat(messages: list[Message]) -> Message:
        data = plain_body(messages)
        async with session.post(f"{url}/chat/completions", data=data, headers=headers) as response:
            return message_of(await response.read())

    return chat


async def with_httpx(url: str) -> Chat:
    import httpx

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60)
    headers = {"content-type": "application/json"}

    async def chat(messages: list[Message]) -> Message:
        data = plain_body(messages)
        response = await client.post(f"{url}/chat/completions", content=data, headers=headers)
        return message_of(response.content)

    return chat


async def with_pyreqwest(url: str) -> Chat:
    from pyreqwest.client import ClientBuilder

    client = ClientBuilder().max_connections(512).build()

    async def chat(messages: list[Message]) -> Message:
        request = client.post(f"{url}/chat/completions").body_bytes(plain_body(messages)).build()
        response = await request.send()
        return message_of(bytes(await response.bytes()))

    return chat


CLIENTS: dict[str, Callable[[str], Awaitable[Chat]]] = {
    "openai": with_backend,
    "aiohttp": with_aiohttp,
    "pyreqwest": with_pyreqwest,
    "httpx": with_httpx,
}


async def episode(chat: Chat) -> int:
    """Requests until the answer comes."""
    messages = [system(SYSTEM), user("Where is my order A17? I ordered it two weeks ago.")]
    requests = 0
    while True:
        message = await chat(messages)
        requests += 1
        messages.append(message)
        calls = message.get("tool_calls")
        if not calls:
            return requests
        messages.extend(tool_result(call, '{"status": "shipped", "days": 3}') for call in calls)


async def measure(client: str, url: str, episodes: int, concurrency: int) -> dict[str, float]:
    """CPU and wall time of ``episodes``, after a warm-up."""
    chat = await CLIENTS[client](url)
    left = iter(range(episodes))

    async def worker() -> int:
        return sum([await episode(chat) for _ in left])

    await asyncio.gather(*(episode(chat) for _ in range(concurrency)))
    wall, cpu = time.perf_counter(), time.process_time()
    requests = sum(await asyncio.gather(*(worker() for _ in range(concurrency))))
    return {
        "requests": requests,
        "cpu_ms": 1000 * (time.process_time() - cpu) / requests,
        "wall_s": time.perf_counter() - wall,
    }


def main() -> None:
    """Run every client against one server and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--mean", type=float, default=0.05, help="mean latency in seconds")
    parser.add_argument("--client", choices=list(CLIENTS), help=argparse.SUPPRESS)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        run: Any = asyncio.run
        if options.loop == "uvloop":
            import uvloop

            run = uvloop.run
        work = measure(options.client, options.url, options.episodes, options.concurrency)
        print(json.dumps(run(work)))
        return
    server = Path(__file__).with_name("mock_openai_server.py")
    with subprocess.Popen(
        [sys.executable, server, "--mean", str(options.mean)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        ideal = options.episodes * 4 * options.mean / options.concurrency
        try:
            for loop in ("asyncio", "uvloop"):
                for client in CLIENTS:
                    report(client, loop, url, options, ideal)
        finally:
            process.terminate()


def report(client: str, loop: str, url: str, options: argparse.Namespace, ideal: float) -> None:
    """Run one client in its own process and print its line."""
    command = [sys.executable, __file__, "--client", client, "--loop", loop, "--url", url]
    command += ["--episodes", str(options.episodes), "--concurrency", str(options.concurrency)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{client:10} {loop:8} left out: {done.stderr.strip().splitlines()[-1]}")
        return
    result = json.loads(done.stdout)
    over = f"{result['wall_s'] / ideal:.2f} of ideal" if ideal else ""
    print(f"{client:10} {loop:8} {result['cpu_ms']:6.3f} ms CPU a request, {result['wall_s']:6.2f} s {over}")


if __name__ == "__main__":
    main()

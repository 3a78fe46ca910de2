"""An OpenAI-compatible chat server that costs next to nothing, to measure clients against.

    python bench/mock_openai_server.py --port 8099 --mean 0.05

It asks for a tool until the conversation holds ``--tool-turns`` tool messages, then answers. Each
reply comes after a lognormal latency, drawn from a seeded generator.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
from typing import Any

import httptools
import uvloop


def http_response(body: dict[str, Any]) -> bytes:
    """A complete HTTP/1.1 response with ``body`` as JSON."""
    payload = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}"
    return head.encode() + b"\r\n\r\n" + payload


def completion(message: dict[str, Any], finish_reason: str) -> bytes:
    """The response of a chat completion."""
    return http_response(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "mock",
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": 120, "completion_tokens": 24, "total_tokens": 144},
        }
    )


def tool_turn(turn: int) -> bytes:
    """The response that calls the tool ``lookup_order`` for the ``turn``-th time."""
    call = {
        "id": f"call_{turn}",
        "type": "function",
        "function": {"name": "lookup_order", "arguments": json.dumps({"order_id": f"A{turn}"})},
    }
    return completion({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")


class MockServer(asyncio.Protocol):
    """One connection."""

    def __init__(self, responses: list[bytes], draw: Any) -> None:
        self.responses = responses
        self.draw = draw
        self.tool_messages = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.tool_messages += body.count(b'"tool_call_id"')

    def on_message_complete(self) -> None:
        response = self.responses[min(self.tool_messages, len(self.responses) - 1)]
        self.tool_messages = 0
        delay = self.draw()
        if delay > 0:
            asyncio.get_running_loop().call_later(delay, self.transport.write, response)
        else:
            self.transport.write(response)


async def serve(port: int, mean: float, sigma: float, tool_turns: int, seed: int) -> None:
    """Serve until cancelled; ``mean`` in seconds."""
    generator = random.Random(seed)
    mu = math.log(mean) - sigma * sigma / 2 if mean > 0 else 0.0
    draw = (lambda: generator.lognormvariate(mu, sigma)) if mean > 0 else (lambda: 0.0)
    answer = completion({"role": "assistant", "content": "Your order is on its way."}, "stop")
    responses = [*(tool_turn(turn) for turn in range(tool_turns)), answer]
    server = await asyncio.get_running_loop().create_server(
        lambda: MockServer(responses, draw), "127.0.0.1", port
    )
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: any free port, printed")
    parser.add_argument("--mean", type=float, default=0.05, help="mean latency in seconds; 0: none")
    parser.add_argument("--sigma", type=float, default=0.5, help="of the latency's logarithm")
    parser.add_argument("--tool-turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.mean, options.sigma, options.tool_turns, options.seed))


if __name__ == "__main__":
    main()

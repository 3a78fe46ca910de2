"""A thousand episodes at once through one gateway: ``python -m bench.gateway [--json]``.

The app is another process, which plays all of them: a tool loop of raw requests. The model computes nothing:
each of its answers takes ten seconds, as one of a busy server does, so that what is measured is the gateway
and the recorder of every token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from bench.langchain import ScriptedTokens
from bench.report import Report, Row, Target, publish
from bench.tool_episodes import TURNS
from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.model_calls import ModelCalls
from grpo_host.agents.rendering import make_renderer
from grpo_host.backends.event_loop import LoopThread, new_event_loop
from grpo_host.gateway.server import Gateway
from grpo_host.models.resolve import resolve_model
from grpo_sdk.backend import Sampling, TokenReply

EPISODES, SECONDS, TICK = 1000, 10.0, 0.005
PARAMETERS = {"type": "object", "properties": {"order_id": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "lookup_order", "parameters": PARAMETERS}}]


class Slow(ScriptedTokens):
    """Takes ``SECONDS`` for an answer, and no CPU."""

    asked = most = 0

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        self.asked += 1
        self.most = max(self.most, self.asked)
        try:
            await asyncio.sleep(SECONDS)
            return await super().generate(prompt, sampling)
        finally:
            self.asked -= 1


async def lags(into: list[float]) -> None:
    """Notes by how many milliseconds the loop is late, until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(TICK)
        into.append(1000 * max(0.0, loop.time() - began - TICK))


async def play(url: str, keys: Sequence[str]) -> None:
    """The app: an episode a key, the beginnings spread over the time of an answer."""
    import aiohttp

    pause = random.Random(0)

    async def episode(session: Any, key: str) -> None:
        await asyncio.sleep(pause.uniform(0, SECONDS))
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": "You help customers."},
            {"role": "user", "content": "Where is order K482?"},
        ]
        while True:
            body = {"model": "shop", "messages": messages, "tools": TOOLS}
            headers = {"authorization": f"Bearer {key}"}
            async with session.post(f"{url}/chat/completions", json=body, headers=headers) as answer:
                answer.raise_for_status()
                said = (await answer.json())["choices"][0]["message"]
            messages.append(said)
            if not said.get("tool_calls"):
                return
            messages += [
                {"role": "tool", "tool_call_id": call["id"], "content": '{"status": "sent"}'}
                for call in said["tool_calls"]
            ]

    limits = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(600)) as session:
        await asyncio.gather(*(episode(session, key) for key in keys))


async def serve(episodes: int) -> dict[str, float]:
    """What ``episodes`` at once cost the two event loops of this process."""
    from transformers import AutoTokenizer

    from grpo_host.langchain.command import answering
    from grpo_host.langchain.episode_source import EpisodeSource

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2-135m").path)
    backend = Slow(tokenizer)
    agent = Agent(
        backend,
        make_renderer(tokenizer, backend.model),
        sampling=Sampling(max_tokens=64),
        limits=AgentLimits(turns=64),
    )
    answer = answering(EpisodeSource(backend))
    of_gateway: list[float] = []
    of_episodes: list[float] = []
    with ExitStack() as stack:
        gateway = Gateway()
        stack.callback(gateway.close)
        all_calls, keys = [], []
        for _ in range(episodes):
            all_calls.append(ModelCalls(agent, seed=1))
            with all_calls[-1].current():
                keys.append(stack.enter_context(gateway.key(answer)))
        url, thread = gateway.url, gateway._thread
        assert isinstance(thread, LoopThread)
        watching = [
            asyncio.run_coroutine_threadsafe(lags(of_gateway), thread.loop),
            asyncio.ensure_future(lags(of_episodes)),
        ]
        began, cpu = time.perf_counter(), time.process_time()
        app = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.gateway", "--app", url), stdin=subprocess.PIPE
        )
        await app.communicate(json.dumps(keys).encode())
        seconds, used = time.perf_counter() - began, time.process_time() - cpu
        for watch in watching:
            watch.cancel()
        if app.returncode:
            raise RuntimeError(f"the app ended with status {app.returncode}")
    for calls in all_calls:
        ledger = calls.ledger()
        assert ledger is not None
        assert (len(calls.turns), len(ledger.sequences)) == (TURNS, 1), (len(calls.turns), ledger.forks)
    asked = episodes * TURNS
    return {
        "gateway": statistics.quantiles(of_gateway, n=100)[98],
        "episodes": statistics.quantiles(of_episodes, n=100)[98],
        "most": float(backend.most),
        "cpu": 1000 * used / asked,
        "rate": asked / seconds,
    }


def measure() -> Report:
    """All of it."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        found = runner.run(serve(EPISODES))
    return Report(
        "The gateway",
        f"{EPISODES} episodes at once in one process, {TURNS} model calls each, from an app in another; an "
        f"answer of the model takes {SECONDS:g} s and computes nothing. How late the two event loops are, "
        "asked every 5 ms.",
        [
            Row("calls under way at once, at most", found["most"], "calls"),
            Row("lag of the gateway's event loop, p99", found["gateway"], "ms", target=Target("≤", 50)),
            Row("lag of the episodes' event loop, p99", found["episodes"], "ms", target=Target("≤", 50)),
            Row("CPU of the process a call, every token recorded", found["cpu"], "ms"),
            Row("calls answered", found["rate"], "/s"),
        ],
    )


def main() -> None:
    """Measure and publish, or be the app."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--app", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.app:
        asyncio.run(play(options.app, json.load(sys.stdin)))
    else:
        publish(measure())


if __name__ == "__main__":
    main()

"""What LangChain costs with a model of ours: ``python -m bench.langchain [--json]``.

CPU of this process a model turn, in one event loop. The agent is ``create_agent`` with two tools: it asks
for a tool until it has been told often enough, and then answers.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any

from bench.orchestration import server
from bench.report import Report, Row, Target, publish
from bench.tool_episodes import TURNS
from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.model_calls import ModelCalls
from grpo_host.agents.rendering import make_renderer
from grpo_host.backends.event_loop import new_event_loop
from grpo_host.models.resolve import resolve_model
from grpo_sdk.backend import TRAINABLE, Backend, FinishReason, ModelSpec, Sampling, TokenReply

EPISODES, WARM_UP, CONCURRENCY, ROUNDS = 150, 50, 32, 5
ASKED = {"messages": [{"role": "user", "content": "Where is order K482?"}]}
CALL = '<tool_call>{"name": "lookup_order", "arguments": {"order_id": "K482"}}</tool_call>'

Play = Callable[[], Awaitable[object]]


class ScriptedTokens(Backend):
    """Samples a tool call until the prompt holds enough of them, then an answer."""

    capabilities = TRAINABLE

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(ModelSpec("scripted-tokens", context=20_000))
        self._tokenizer = tokenizer
        ends = [tokenizer.eos_token_id]
        self._call, self._answer = (
            [*tokenizer.encode(text, add_special_tokens=False), *ends] for text in (CALL, "It is on its way.")
        )
        (self._begins,) = tokenizer.encode("<|im_start|>", add_special_tokens=False)

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        asked = (list(prompt).count(self._begins) - 3) // 2  # behind the system's and the user's message
        ids = self._call if asked < TURNS - 1 else self._answer
        return TokenReply(ids, [-0.5] * len(ids), FinishReason.STOP)


def lookup_order(order_id: str) -> str:
    """Look up an order."""
    return '{"status": "sent"}'


def count() -> str:
    """Count the orders."""
    return "3"


def app(model: Any) -> Any:
    """A shop's agent around ``model``."""
    from langchain.agents import create_agent

    return create_agent(model, [lookup_order, count], system_prompt="You help customers.", name="shop")


async def cpu_ms(play: Play) -> float:
    """Of this process, a model turn: the median of ``ROUNDS``."""
    place = asyncio.Semaphore(CONCURRENCY)

    async def one() -> None:
        async with place:
            await play()

    async def many(episodes: int) -> None:
        await asyncio.gather(*(one() for _ in range(episodes)))

    await many(WARM_UP)
    taken = []
    for _ in range(ROUNDS):
        gc.collect()
        began = time.process_time()
        await many(EPISODES)
        taken.append((time.process_time() - began) / (EPISODES * TURNS) * 1000)
    return statistics.median(taken)


async def recorded(in_episodes: bool) -> float:
    """``create_agent`` on a policy of token ids in this process, with and without the recorder of episodes."""
    from transformers import AutoTokenizer

    from grpo_host.langchain.chat import ChatGrpo
    from grpo_host.langchain.episode_source import EpisodeSource
    from grpo_host.langchain.episode_watch import EpisodeWatch

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2-135m").path)
    backend = ScriptedTokens(tokenizer)
    renderer = make_renderer(tokenizer, backend.model)
    agent = Agent(backend, renderer, sampling=Sampling(max_tokens=64), limits=AgentLimits(turns=64))
    model = ChatGrpo(source=EpisodeSource(backend), cache=False) if in_episodes else ChatGrpo(backend=backend)
    made = app(model)

    async def play() -> None:
        calls = ModelCalls(agent, seed=1, policy_version=0)
        config: Any = {"callbacks": [EpisodeWatch(calls.asked)]} if in_episodes else None  # as in an episode
        with calls.current() if in_episodes else nullcontext():
            await made.ainvoke(ASKED, config)
        if in_episodes:
            ledger = calls.ledger()
            assert ledger is not None
            assert len(calls.turns) == TURNS, len(calls.turns)

    return await cpu_ms(play)


async def over_http(ours: bool, port: int) -> float:
    """``create_agent`` against a server that answers at once, by our chat model or by ``ChatOpenAI``."""
    base_url = f"http://127.0.0.1:{port}/v1"
    if not ours:
        from langchain_openai import ChatOpenAI
        from pydantic import SecretStr

        peer = app(ChatOpenAI(model="mock", base_url=base_url, api_key=SecretStr("x")))
        return await cpu_ms(lambda: peer.ainvoke(ASKED))
    from grpo_backends.openai_http import OpenAIChatBackend
    from grpo_host.langchain.chat import ChatGrpo

    made = app(ChatGrpo(backend=OpenAIChatBackend(ModelSpec("mock"), base_url=base_url)))
    return await cpu_ms(lambda: made.ainvoke(ASKED))


def measure() -> Report:
    """All of it."""

    def run(work: Awaitable[float]) -> float:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(work)  # type: ignore[arg-type]

    with server(0.0) as port:
        peer = run(over_http(False, port))
        ours = run(over_http(True, port))
    plain, with_recorder = run(recorded(False)), run(recorded(True))
    return Report(
        "LangChain",
        f"CPU of the client, a model turn: `create_agent` with two tools, {TURNS} model turns an episode, "
        f"{CONCURRENCY} episodes at once, the median of {ROUNDS} rounds of {EPISODES} episodes.",
        [
            Row("ChatOpenAI, a server that answers at once", peer, "ms"),
            Row(
                "ChatGrpo on the backend openai, the same server",
                ours,
                "ms",
                ratio=ours / peer,
                ratio_to="ChatOpenAI",
                target=Target("≤", 0.5, on="ratio"),
            ),
            Row("ChatGrpo on a policy of token ids, outside of an episode", plain, "ms"),
            Row(
                "the same within an episode, every token recorded",
                with_recorder,
                "ms",
                ratio=with_recorder / plain,
                ratio_to="outside of an episode",
                target=Target("≤", max(plain * 1.05, plain + 0.05)),
            ),
        ],
    )


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(prog="python -m bench.langchain", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.parse_args()
    warnings.simplefilter("ignore")
    publish(measure())


if __name__ == "__main__":
    main()

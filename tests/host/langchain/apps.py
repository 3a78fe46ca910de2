"""What tests of apps share: an environment that talks, episodes in it, and what of them must be exact."""

from __future__ import annotations

import asyncio
import json
import operator
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

from langchain_core.runnables import Runnable
from langchain_core.tools import tool

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.rendering import make_renderer
from grpo_host.langchain.app import App
from grpo_host.langchain.app_agent import AppAgent, AppMapping
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_sdk import Environment, Observation, Sampling, StepResult, Task, Trajectory, user
from grpo_sdk.trajectory import TokenSequence

WAYS = ("ainvoke", "astream", "invoke", "stream")
"""How an app is called, and calls its model."""


class Talk(Environment):
    """Says the lines of its task one after another."""

    def tasks(self, split: str) -> list[Task]:
        return []

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.lines = list(task.data["lines"])
        self.heard: list[str] = []
        return Observation([user(self.lines.pop(0))])

    async def step(self, action: Any) -> StepResult:
        self.heard.append(action["content"])
        if self.lines:
            return StepResult([user(self.lines.pop(0))])
        return StepResult(done=True, outcome={"heard": self.heard})


def app_of(build: Callable[..., Any], *parameters: str) -> App:
    return App("test:build", None, build, frozenset(parameters or ("model",)))


def agent_of(backend, app, *, turns=20, input=None, context=None, output=None):
    agent = Agent(
        backend,
        make_renderer(backend.tokenizer, backend.model),
        sampling=Sampling(max_tokens=10_000),
        limits=AgentLimits(turns=turns, turn_seconds=20.0),
    )
    return AppAgent(agent, app, AppMapping(input, context or {}, output))


async def episode(agent, *lines, seconds=30.0, **data) -> Trajectory:
    request = EpisodeRequest(Task("t", {"lines": lines, **data}), seed=3, id="t/0")
    return await run_episode(agent, Talk, request, environment_name="talk", seconds=seconds)


def play(agent, *lines, **options) -> Trajectory:
    return asyncio.run(episode(agent, *lines, **options))


def answers(sequence: TokenSequence) -> Iterator[tuple[list[int], list[int]]]:
    """Each answer in ``sequence``, behind all that stands before it."""
    at = 0
    while 1 in sequence.mask[at:]:
        start = sequence.mask.index(1, at)
        at = sequence.mask.index(0, start) if 0 in sequence.mask[start:] else len(sequence.mask)
        yield sequence.ids[:start], sequence.ids[start:at]


def assert_exact(backend, *trajectories):
    """Every id that the backend sampled is in one sequence, behind what it was shown, and no other is."""
    found = [found for t in trajectories for item in t.ledger.sequences for found in answers(item)]
    assert backend.log
    assert sorted(found) == sorted(backend.log)
    assert sum(t.ledger.sampled for t in trajectories) == sum(len(ids) for _, ids in backend.log)


def call(name: str, **arguments: Any) -> str:
    """A tool call as the scripted model writes it."""
    return f'<tool_call>{{"name": "{name}", "arguments": {json.dumps(arguments)}}}</tool_call>'


@tool
def lookup(order: str) -> str:
    """Look up an order."""
    return f"{order} is packed"


class Called(Runnable[Any, Any]):
    """``app``, a model's or a graph's, called in one of the four ways; a graph's streams show its tokens."""

    def __init__(self, app: Any, way: str) -> None:
        self._app, self._way = app, way
        self._more = {"stream_mode": ["values", "messages"]} if hasattr(app, "stream_mode") else {}
        self.checkpointer = getattr(app, "checkpointer", None)

    def invoke(self, input: Any, config: Any = None, **more: Any) -> Any:
        if self._way == "invoke":
            return self._app.invoke(input, config, **more)
        return self._whole(list(self._app.stream(input, config, **self._more, **more)))

    async def ainvoke(self, input: Any, config: Any = None, **more: Any) -> Any:
        if self._way in ("invoke", "stream"):
            return await asyncio.to_thread(self.invoke, input, config, **more)
        if self._way == "ainvoke":
            return await self._app.ainvoke(input, config, **more)
        parts = self._app.astream(input, config, **self._more, **more)
        return self._whole([part async for part in parts])

    def _whole(self, parts: list[Any]) -> Any:
        if self._more:
            return reduce(operator.or_, (state for mode, state in parts if mode == "values"))
        return reduce(operator.add, parts)

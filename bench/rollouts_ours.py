"""order_desk through our rollout engine, with tool calls by decree (see bench.rollouts)."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from bench.rollouts_workload import (
    CONTEXT,
    DTYPE,
    EPISODES,
    GROUP,
    LOOKUPS,
    MAX_TOKENS,
    MODEL,
    SYSTEM,
    TASKS,
    TURNS,
    Measured,
)
from grpo_environments.order_desk.environment import OrderDeskEnvironment
from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.rendering import Renderer, make_renderer
from grpo_host.agents.rendering.tool_calls import as_plain_messages
from grpo_host.models.resolve import resolve_model
from grpo_host.rollouts.engine import RolloutEngine, RolloutMetrics, group_requests
from grpo_host.rollouts.scoring import RewardSet
from grpo_sdk.backend import Backend, ModelSpec, Sampling
from grpo_sdk.environment import Observation
from grpo_sdk.messages import ToolCall, ToolSchema, system, tool_call, user
from grpo_sdk.seeds import derive_seed
from grpo_sdk.strategy import Strategy
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.trajectory import Task

BACKENDS = {
    "vllm": ("grpo_backends.vllm_engine", "VllmBackend"),
    "transformers": ("grpo_backends.transformers_engine", "TransformersBackend"),
}
_calls: ContextVar[Iterator[ToolCall]] = ContextVar("calls")
"""The calls that this episode has yet to make: an episode is one task of the event loop."""


class DecreedEnvironment(OrderDeskEnvironment):
    """order_desk with one question, which also decrees the calls of its episode."""

    async def reset(self, task: Task, *, seed: int) -> Observation:
        arguments = json.dumps({"order_id": task.data["questions"][0]["order"]})
        _calls.set(iter([tool_call("lookup_order", arguments, f"call_{n}") for n in range(LOOKUPS)]))
        return await super().reset(task, seed=seed)


class DecreedRenderer:
    """``renderer``, but what the model says counts as the next call, or as text once there is none."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self.stop_ids = renderer.stop_ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)

    def parse(self, completion: Sequence[int], tools: Sequence[ToolSchema]) -> tuple[str, list[ToolCall]]:
        """The text, and the call that it stands for."""
        text, _ = self._renderer.parse(completion, ())
        call = next(_calls.get(), None)
        return ("", [call]) if call else (text, [])


def measure(name: str) -> Measured:
    """The second batch of episodes on the backend ``name``; a first, short one warms it up."""
    module, attribute = BACKENDS[name]
    model = ModelSpec(MODEL, path=resolve_model(MODEL).path, context=CONTEXT, dtype=DTYPE)
    metrics = asyncio.run(_measure(getattr(importlib.import_module(module), attribute)(model)))
    return Measured(metrics.seconds, metrics.turns, metrics.sampled_tokens)


async def _measure(backend: Backend) -> RolloutMetrics:
    await backend.start()
    try:
        await _run(backend, max_tokens=2)
        return await _run(backend, max_tokens=MAX_TOKENS)
    finally:
        await backend.close()


def desk_engine(backend: Backend, *, max_tokens: int, turns: int, concurrency: int) -> RolloutEngine:
    """Plays episodes whose course is decreed."""
    agent = Agent(
        backend,
        DecreedRenderer(make_renderer(backend.tokenizer, backend.model)),
        strategy=Strategy("desk", SYSTEM),
        sampling=Sampling(max_tokens=max_tokens, temperature=1.0),
        limits=AgentLimits(turns=turns),
    )
    return RolloutEngine(
        agent,
        lambda: DecreedEnvironment(questions=1),
        RewardSet([]),
        environment_name="order_desk",
        concurrency=concurrency,
    )


async def _run(backend: Backend, *, max_tokens: int) -> RolloutMetrics:
    engine = desk_engine(backend, max_tokens=max_tokens, turns=TURNS, concurrency=EPISODES)
    requests = group_requests(tasks(), GROUP, seed=lambda task, n: derive_seed(task.id, n), label="bench")
    groups, metrics = await engine.run(requests)
    if metrics.statuses["completed"] != EPISODES:
        raise RuntimeError(
            f"an episode failed: {[t.error for group in groups for t in group if t.error][:1]}"
        )
    return metrics


def tasks() -> list[Task]:
    """The tasks of all engines: one question each that names its order."""
    return list(OrderDeskEnvironment(questions=1).tasks("train")[:TASKS])


def opening(task: Task) -> list[dict[str, str]]:
    """What an episode of ``task`` begins with, tools described as our renderer does."""
    schemas = Toolbox(OrderDeskEnvironment(questions=1).tools()).schemas
    return as_plain_messages([system(SYSTEM), user(task.data["questions"][0]["text"])], schemas)

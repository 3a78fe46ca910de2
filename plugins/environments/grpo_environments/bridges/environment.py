"""Base of all bridged environments: each question goes to the library's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from grpo_environments.bridges.process import START_SECONDS, Library, Package, Session, library
from grpo_environments.splits import belongs, is_held_out
from grpo_sdk.backend import Backend, Capability, Sampling
from grpo_sdk.blocking import call_blocking
from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.messages import Message, as_messages
from grpo_sdk.seeds import derive_seed
from grpo_sdk.tools import BoundTool, ToolLike
from grpo_sdk.trajectory import Task

OUTCOME_SECONDS = 10.0
"""``outcome`` is asked for in the event loop, by an episode that a limit ended."""


class BridgedEnvironment(Environment):
    """Tasks, tools, answers and scores are the library's. It says what is held out, or a fifth is."""

    package: ClassVar[Package]
    start_seconds = START_SECONDS

    def __init__(
        self,
        venv: Path | None,
        options: dict[str, Any],
        *,
        other: Backend | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        """``venv``: the virtual environment that has the library; None: this one. ``other``: who answers
        whatever the library asks of others than the agent."""
        self._library: Library = library(self.package, venv, options)
        self._other, self._sampling = other, sampling or Sampling()
        self._episode_seed = self._asked = 0
        self._session: Session | None = None
        self._schemas: list[Any] = []
        self._begun = False
        self._said: list[Message] = []
        self._order = asyncio.Lock()

    def tasks(self, split: str) -> Sequence[Task]:
        held_out = is_held_out(split)
        return [
            Task(row["id"], row["data"], split)
            for row in _tasks(self._library)
            if (
                row["split"] == split
                if "split" in row
                else belongs(held_out, self.package.name, row["group"])
            )
        ]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        await self.close()
        self._begun, self._episode_seed, self._asked = False, seed, 0
        self._session = await call_blocking(self._library.open)
        begun = await self._ask("begin", task=task.id, data=task.data, seed=seed)
        self._said, self._schemas, self._begun = [], begun["tools"], True
        return Observation(as_messages((await self._answered(begun))["messages"]))

    def tools(self) -> Sequence[ToolLike]:
        return [
            BoundTool(schema["function"]["name"], schema, partial(self._call, schema["function"]["name"]))
            for schema in self._schemas
        ]

    def follow(self, messages: Sequence[Message]) -> None:
        self._said.extend(messages)

    async def step(self, action: Message) -> StepResult:
        said, self._said = self._said, []
        if not said or said[-1] != action:
            said = [*said, action]
        return _step_result(await self._answered(await self._ask("say", said=said)))

    def outcome(self) -> dict[str, Any]:
        if self._session is None or not self._begun:
            return {}
        said, self._said = self._said, []
        facts: dict[str, Any] = self._session.ask("outcome", seconds=OUTCOME_SECONDS, said=said)
        return facts

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    async def _answered(self, said: dict[str, Any]) -> dict[str, Any]:
        """What the library ``said``, once others than the agent have answered what it asked them."""
        messages = list(said.get("messages", ()))
        while "other" in said:
            if self._other is None:
                raise RuntimeError(f"{self.package.name} asks another than the agent, and none is named")
            self._asked += 1
            sampling = self._sampling
            if Capability.SEED in self._other.capabilities:
                sampling = replace(sampling, seed=derive_seed("other", self._episode_seed, self._asked))
            reply = await self._other.chat(as_messages(said["other"]), sampling)
            said = await self._ask("other_says", text=reply.message["content"])
            messages += said.get("messages", ())
        return {**said, "messages": messages}

    async def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        return await self._ask("call", name=name, arguments=arguments)

    async def _ask(self, method: str, **arguments: Any) -> Any:
        if self._session is None:
            raise RuntimeError(f"{self.package.name}: reset comes before step and tools")
        async with self._order:  # calls of one message run in their order
            return await call_blocking(self._session.ask, method, **arguments)


def _step_result(said: dict[str, Any]) -> StepResult:
    messages = as_messages(said.get("messages", ()))
    return StepResult(messages, said.get("done", False), said.get("outcome", {}), said.get("reward"))


_known: dict[Library, list[dict[str, Any]]] = {}


def _tasks(of: Library) -> list[dict[str, Any]]:
    if of not in _known:
        _known[of] = of.ask("tasks")
    return _known[of]

"""An agent: strategy, tools and limits. It turns messages into the next assistant message.

One implementation of a turn for all three drivers: rollouts, serving and embedding.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from grpo_host.rendering import Renderer
from grpo_host.session import Session, open_session
from grpo_sdk.backend import Backend, Sampling
from grpo_sdk.messages import Message, system
from grpo_sdk.seeds import derive_seed
from grpo_sdk.strategy import Strategy
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import ToolLike, ToolLimits
from grpo_sdk.trajectory import ToolRun, Turn


class TurnLimitError(Exception):
    """The agent has used all its turns."""


class TurnTimeoutError(Exception):
    """A model call took too long."""


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """What one conversation may take."""

    turns: int = 8
    """Model calls."""
    turn_seconds: float = 120.0
    tools: ToolLimits = field(default_factory=ToolLimits)


@dataclass(frozen=True)
class Agent:
    """Who speaks: a strategy, tools and limits on top of a backend."""

    backend: Backend
    renderer: Renderer | None = None
    """Needed where the backend speaks token ids; see ``grpo_host.rendering.make_renderer``."""
    strategy: Strategy = field(default_factory=lambda: Strategy("plain"))
    tools: tuple[ToolLike, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    limits: AgentLimits = field(default_factory=AgentLimits)

    @cached_property
    def _toolbox(self) -> Toolbox:
        return Toolbox(self.tools, self.limits.tools)

    def open(
        self,
        *,
        tools: Sequence[ToolLike] = (),
        history: Sequence[Message] = (),
        seed: int | None = None,
        policy_version: int = 0,
    ) -> Conversation:
        """Begin a conversation, with ``tools`` besides the agent's own, after ``history``."""
        toolbox = self._toolbox.extended(tools)
        messages = _with_instructions(self.strategy.instructions, history)
        session = open_session(
            self.backend, self.renderer, messages, toolbox.schemas, policy_version=policy_version
        )
        return Conversation(self, session, toolbox, seed)


class Conversation:
    """One agent talking: its session, its tools, and the turns it has taken."""

    def __init__(self, agent: Agent, session: Session, toolbox: Toolbox, seed: int | None) -> None:
        self.agent = agent
        self.session = session
        self.toolbox = toolbox
        self.seed = seed
        self.turns: list[Turn] = []

    async def act(self, new: Sequence[Message]) -> Message:
        """Answer ``new``: call the model, run the tools it asks for, and so on until it speaks.

        Raises ``TurnLimitError``, ``TurnTimeoutError``, and what the backend raises. All that was
        said until then is in the session.
        """
        pending = new
        while True:
            message, tool_messages = await self._turn(pending)
            if not message.get("tool_calls"):
                return message
            pending = tool_messages

    async def _turn(self, new: Sequence[Message]) -> tuple[Message, list[Message]]:
        """One model call and its tools."""
        limits = self.agent.limits
        if len(self.turns) >= limits.turns:
            self.session.messages.extend(new)
            raise TurnLimitError
        started = time.perf_counter()
        try:
            async with asyncio.timeout(limits.turn_seconds) as limit:
                reply = await self.session.respond(new, self._sampling())
        except TimeoutError:
            if not limit.expired():
                raise  # the backend's own
            raise TurnTimeoutError(f"the model did not answer within {limits.turn_seconds:g} s") from None
        seconds = time.perf_counter() - started
        calls = reply.message.get("tool_calls", [])
        results: list[tuple[Message, ToolRun]] = await self.toolbox.run(calls) if calls else []
        self.turns.append(
            Turn(
                reply.prompt_tokens,
                reply.completion_tokens,
                seconds,
                reply.finish_reason,
                [record for _, record in results],
            )
        )
        return reply.message, [message for message, _ in results]

    def _sampling(self) -> Sampling:
        if self.seed is None:
            return self.agent.sampling
        return replace(self.agent.sampling, seed=derive_seed(self.seed, len(self.turns)))


def _with_instructions(instructions: str, history: Sequence[Message]) -> list[Message]:
    """``history`` behind one system message that holds ``instructions`` and its own, if it has one."""
    if history and history[0]["role"] == "system":
        parts = [part for part in (instructions, history[0]["content"]) if part]
        return [system("\n".join(parts)), *history[1:]]
    return [system(instructions), *history] if instructions else list(history)

"""An agent: strategy, tools and limits. It turns messages into the next assistant message.

One implementation of a turn for all three drivers: rollouts, serving and embedding.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from grpo_host.agents.call_ids import call_ids
from grpo_host.agents.rendering import Renderer
from grpo_host.agents.reply import OnText, Reply
from grpo_host.agents.session import Session, TokenSession, open_session
from grpo_host.agents.tracing import Instruments
from grpo_sdk.altered import altered
from grpo_sdk.backend import Backend, Sampling
from grpo_sdk.bundles import tools_of_answer
from grpo_sdk.deadline import Deadline
from grpo_sdk.errors import ConfigError
from grpo_sdk.messages import Message, ToolCall, ToolSchema, system
from grpo_sdk.numbers import check_number
from grpo_sdk.seeds import derive_seed
from grpo_sdk.strategy import Strategy
from grpo_sdk.toolbox import Execute, Toolbox
from grpo_sdk.tools import ToolLike, ToolLimits
from grpo_sdk.trajectory import Ledger, Task, TokenSequence, ToolRun, Turn

RunTool = Callable[[int, ToolCall, Execute], Awaitable[tuple[Message, ToolRun]]]
"""Given the turn (from 1), the call, and what executes it: answers the call, by that or otherwise."""
Prepare = Callable[[list[Message]], "list[Message] | None"]
"""Asked before each model call: what the model is to be shown instead of these messages, or None."""


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

    def __post_init__(self) -> None:
        check_number("how often an agent may call its model for a message", self.turns, int)
        check_number("the seconds of a model call", self.turn_seconds, float)
        if self.turns < 1:
            raise ConfigError(f"an agent may call its model {self.turns} times a message; give 1 or more")


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call, what the model was answered, and how it went."""

    call: ToolCall
    answer: Message
    run: ToolRun


@dataclass(frozen=True)
class Agent:
    """Who speaks: a strategy, tools and limits on top of a backend."""

    backend: Backend
    renderer: Renderer | None = None
    """Needed if the backend speaks token ids; see ``grpo_host.agents.rendering.make_renderer``."""
    strategy: Strategy = field(default_factory=lambda: Strategy("plain"))
    tools: tuple[ToolLike, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    limits: AgentLimits = field(default_factory=AgentLimits)
    instruments: Instruments | None = None
    """Watch its conversations. None, as in rollouts, costs nothing."""
    run_tool: RunTool | None = None
    """Runs each call of a tool; None: the tool alone does."""

    @cached_property
    def _toolbox(self) -> Toolbox:
        return Toolbox(self.tools, self.limits.tools)

    def open(
        self,
        *,
        tools: Sequence[ToolLike] = (),
        offered: Sequence[ToolSchema] = (),
        history: Sequence[Message] = (),
        seed: int | None = None,
        policy_version: int = 0,
        id: str | None = None,
    ) -> Conversation:
        """Begin a conversation, with ``tools`` besides the agent's own, after ``history``.

        ``offered`` are tools that the caller runs itself: ask with ``respond`` then. ``id`` is what its
        spans call it.
        """
        toolbox = self._toolbox.extended(tools)
        messages = with_instructions(self.strategy.instructions, history)
        ids = call_ids(seed)
        schemas = [*toolbox.schemas, *offered]
        session = open_session(
            self.backend, self.renderer, messages, schemas, ids, policy_version=policy_version
        )
        return Conversation(self, session, toolbox, seed, id, ids)

    def open_episode(
        self,
        task: Task,
        *,
        tools: Sequence[ToolLike],
        history: Sequence[Message],
        seed: int,
        policy_version: int,
    ) -> Conversation:
        """Begin a conversation about ``task``, of which the agent knows what it is told."""
        return self.open(tools=tools, history=history, seed=seed, policy_version=policy_version)

    def sampled(self, **changes: Any) -> Agent:
        """This agent with ``changes`` to its sampling."""
        return replace(self, sampling=replace(self.sampling, **changes))

    async def replay(self, dialogue: Sequence[Message], tools: Sequence[ToolLike]) -> list[TokenSequence]:
        """The tokens of an episode with ``tools`` besides its own in which ``dialogue`` was said.

        Raises ``ConfigError`` if the backend does not speak token ids.
        """
        opening = dialogue[:1] if dialogue and dialogue[0]["role"] == "system" else []
        session = self.open(tools=tools, history=opening).session
        if not isinstance(session, TokenSession):
            raise ConfigError("training.warm_start: the backend does not speak token ids")
        new: list[Message] = []
        for message in dialogue[len(opening) :]:
            if message["role"] == "assistant":
                session.replay(new, message)
                new = []
            else:
                new.append(message)
        return session.ledger().sequences


class Conversation:
    """One agent talking: its session, its tools, and the turns it has taken."""

    def __init__(
        self,
        agent: Agent,
        session: Session,
        toolbox: Toolbox,
        seed: int | None,
        id: str | None = None,
        call_ids: Iterator[str] | None = None,
    ) -> None:
        self.agent = agent
        self.session = session
        self.toolbox = toolbox
        self.seed = seed
        self.id = id
        self._call_ids = call_ids
        self.turns: list[Turn] = []
        self.used: list[ToolUse] = []
        """Every tool call, in order."""
        self.said: list[Message] = []
        """All that ``act`` heard and brought about, in order."""
        self.prepare: Prepare | None = None
        if agent.instruments is not None:
            toolbox.around = partial(agent.instruments.tool_call, self)
        if agent.run_tool is not None:
            toolbox.through = self._run_tool

    @property
    def agent_name(self) -> str:
        """What its agent is called: as its strategy."""
        return self.agent.strategy.name

    @property
    def backend(self) -> Backend:
        return self.agent.backend

    @property
    def messages(self) -> list[Message]:
        """As the model is shown them."""
        return self.session.messages

    def ledger(self, *, spans: bool = False) -> Ledger | None:
        """The exact tokens so far; None if the backend does not speak them."""
        return self.session.ledger(spans=spans)

    def has_tool(self, name: str) -> bool:
        """Whether the agent can call the tool ``name``."""
        return name in self.toolbox

    async def act(self, new: Sequence[Message], on_text: OnText | None = None) -> Message:
        """Answer ``new``: call the model, run the tools it asks for, and so on until it speaks.

        ``on_text`` is given the model's text as it comes, without tool calls. Raises ``TurnLimitError``,
        ``TurnTimeoutError``, and what the backend raises. All that was said until then is in the
        session.
        """
        async with tools_of_answer():
            if self.agent.instruments is None:
                return await self._act(new, on_text)
            with self.agent.instruments.invocation(self, new) as answered:
                message = await self._act(new, on_text)
                answered(message)
                return message

    def begin_again(self, messages: Sequence[Message]) -> None:
        """Go on as if all there was until now were ``messages``, the system message included."""
        agent, session = self.agent, self.session
        self.session = open_session(agent.backend, agent.renderer, messages, session.tools, self._call_ids)

    async def _act(self, new: Sequence[Message], on_text: OnText | None) -> Message:
        pending = new
        while True:
            message, tool_messages = await self._turn(pending, on_text)
            if not message.get("tool_calls"):
                return message
            pending = tool_messages

    async def _turn(self, new: Sequence[Message], on_text: OnText | None) -> tuple[Message, list[Message]]:
        """One model call and its tools."""
        self.said.extend(new)
        if len(self.turns) >= self.agent.limits.turns:
            self.session.messages.extend(new)
            raise TurnLimitError
        if self.prepare is not None:
            new = self._prepared(self.prepare, new)
        started = time.perf_counter()
        reply = await self.respond(new, on_text, self.agent.limits.turn_seconds)
        seconds = time.perf_counter() - started
        self.said.append(reply.message)
        calls = reply.message.get("tool_calls", [])
        results: list[tuple[Message, ToolRun]] = await self.toolbox.run(calls) if calls else []
        self.used += [ToolUse(call, *result) for call, result in zip(calls, results, strict=True)]
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

    def _prepared(self, prepare: Prepare, new: Sequence[Message]) -> Sequence[Message]:
        """What is new to the session, once it holds what the model is to be shown."""
        try:
            shown = prepare([*self.session.messages, *new])
        except Exception:
            self.session.messages.extend(new)
            raise
        if shown is None:
            return new
        self.begin_again(shown)
        return ()

    async def respond(
        self, new: Sequence[Message], on_text: OnText | None = None, seconds: float | None = None
    ) -> Reply:
        """One model call, within ``seconds``: its answer to ``new``, of which no tool call is run.

        Raises ``TurnTimeoutError`` and what the backend raises.
        """
        return await call_model(self.agent, self.session, new, self._sampling(), on_text, seconds)

    async def _run_tool(self, call: ToolCall, execute: Execute) -> tuple[Message, ToolRun]:
        if self.agent.run_tool is None:
            return await execute(call)
        return await self.agent.run_tool(len(self.turns) + 1, call, execute)

    def _sampling(self) -> Sampling:
        if self.seed is None:
            return self.agent.sampling
        return altered(self.agent.sampling, seed=derive_seed(self.seed, len(self.turns)))


async def call_model(
    agent: Agent,
    session: Session,
    new: Sequence[Message],
    sampling: Sampling,
    on_text: OnText | None,
    seconds: float | None,
) -> Reply:
    """The answer of the model of ``agent`` to ``new`` in ``session``, within ``seconds``, watched.

    Raises ``TurnTimeoutError`` and what the backend raises.
    """
    if agent.instruments is None:
        return await _in_time(session.respond(new, sampling, on_text), seconds)
    heard = [*session.messages, *new]
    with agent.instruments.model_call(agent.backend, heard, sampling, session.tools) as call:

        def told(text: str) -> None:
            call.text(text)
            if on_text is not None:
                on_text(text)

        reply = await _in_time(session.respond(new, sampling, on_text and told), seconds)
        call.replied(reply)
        return reply


async def _in_time(answer: Awaitable[Reply], seconds: float | None) -> Reply:
    if seconds is None:
        return await answer
    try:
        with Deadline(seconds) as limit:
            return await answer
    except TimeoutError:
        if not limit.expired():
            raise  # the backend's own
        raise TurnTimeoutError(f"the model did not answer within {seconds:g} s") from None


def with_instructions(instructions: str, history: Sequence[Message]) -> list[Message]:
    """``history`` behind one system message that holds ``instructions`` and its own, if it has one."""
    if history and history[0]["role"] == "system":
        parts = [part for part in (instructions, history[0]["content"]) if part]
        return [system("\n".join(parts)), *history[1:]]
    return [system(instructions), *history] if instructions else list(history)

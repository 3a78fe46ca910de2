"""Conversations with the served agents: the part ``chat`` of ``Services``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from grpo_host.agent import Agent, AgentLimits, TurnLimitError, TurnTimeoutError
from grpo_host.chat.agent import ChatAgent, to_its_end
from grpo_host.chat.sql_store import SqlStore
from grpo_host.chat.store import ConversationRecord
from grpo_host.serving.endpoint import ApiError, Key
from grpo_host.serving.services import Part, Services
from grpo_host.wiring import build_strategy, build_tools
from grpo_sdk.backend import Sampling
from grpo_sdk.errors import GrpoError, PluginError, did_you_mean
from grpo_sdk.strategy import Strategy
from grpo_sdk.tools import ToolLimits

if TYPE_CHECKING:
    from grpo_host.serving.pool import ModelPool

DEFAULT_STRATEGY = "customer_service"
"""Where there is no agent.yaml and nothing is asked for."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message to an agent."""

    message: str
    conversation_id: str | None = None
    """None: a new conversation."""
    strategy: str | None = None
    model: str | None = None
    user_id: str | None = None
    context: dict[str, Any] | None = None
    use_tools: bool = True


@dataclass(frozen=True, slots=True)
class Opened:
    """A message whose conversation is known and whose model is loaded."""

    agent: ChatAgent
    conversation_id: str
    strategy: str
    turn: Turn

    async def answer(self) -> str:
        """The whole answer; it and the message are in the store then."""
        with _as_api_errors():
            return await self.agent.respond(
                self.conversation_id, self.turn.message, self.strategy, self.turn.use_tools
            )

    async def pieces(self) -> AsyncIterator[str]:
        """The answer as it comes; when the last piece has come, it is in the store."""
        stream = self.agent.stream(
            self.conversation_id, self.turn.message, self.strategy, self.turn.use_tools
        )
        try:
            with _as_api_errors():
                async for piece in stream:
                    yield piece
        finally:
            await stream.aclose()  # type: ignore[attr-defined]


class Chats(Part):
    """Opens conversations, each for the key that began it."""

    def __init__(self, services: Services) -> None:
        self._pool: ModelPool = services.models
        self._services = services
        self.store = SqlStore.on(services.database)
        self._agents: dict[str, ChatAgent] = {}
        self._strategies = self._offered()

    @property
    def strategies(self) -> list[str]:
        """Names that a message may ask for."""
        return sorted(self._strategies)

    @asynccontextmanager
    async def open(self, turn: Turn, key: Key) -> AsyncIterator[Opened]:
        """The conversation of ``turn``, begun where it names none.

        Raises ``ApiError``: 404 for a conversation of somebody else, or for a model that is not served,
        400 for an unknown strategy.
        """
        self._check(turn.strategy)
        record = await self.record(turn.conversation_id, key) if turn.conversation_id else None
        async with self._pool.lease(turn.model) as lease:
            agent = self._agents.get(lease.entry.id)
            if agent is None:
                agent = self._agents[lease.entry.id] = self._make(lease.entry.id)
            conversation_id = uuid4().hex if record is None else record.id
            try:
                if record is None:
                    context = await agent.start_conversation(
                        turn.user_id,
                        turn.context,
                        strategy=turn.strategy,
                        conversation_id=conversation_id,
                        owner=key.id,
                    )
                    strategy = context.strategy
                else:
                    strategy = turn.strategy or record.strategy
                yield Opened(agent, conversation_id, strategy, turn)
            except BaseException:
                if record is None:
                    await to_its_end(self._forget_unanswered(conversation_id))
                raise
            finally:
                await agent.end_conversation(conversation_id)  # the store has it, not this process

    async def _forget_unanswered(self, conversation_id: str) -> None:
        with suppress(GrpoError):  # what went wrong before is what the caller is told
            begun = await self.store.get(conversation_id)
            if begun is not None and not begun.length:
                await self.store.delete(conversation_id)

    async def record(self, conversation_id: str, key: Key) -> ConversationRecord:
        """A conversation of ``key``. Raises ``ApiError`` 404."""
        # PostgreSQL keeps no NUL, so there is no conversation of such an id.
        record = None if "\0" in conversation_id else await self.store.get(conversation_id)
        if record is None or record.owner != key.id:
            raise ApiError(404, "not_found", "there is no such conversation")
        return record

    async def delete(self, conversation_id: str, key: Key) -> None:
        """Forget a conversation of ``key``. Raises ``ApiError`` 404."""
        await self.record(conversation_id, key)
        await self.store.delete(conversation_id)

    def _make(self, model: str) -> ChatAgent:
        loaded = self._services.loaded
        config = loaded.config if loaded else None
        sampling, limits, tools, prompt = Sampling(max_tokens=256, temperature=0.7), None, [], ""
        if config is not None:
            set_, most = config.sampling, config.agent.limits
            sampling = Sampling(set_.max_tokens, set_.temperature, set_.top_p, set_.top_k)
            tool_limits = ToolLimits(most.tool_seconds, most.tool_output_chars)
            limits = AgentLimits(most.turns, most.turn_seconds, tool_limits)
            tools = build_tools(config, self._services.registry, Strategy("all"))
            prompt = config.agent.system_prompt
        default = self._default()
        agent = ChatAgent(
            _Pooled(self._pool, model, self._services),  # type: ignore[arg-type]  # as LocalModel, but shared
            store=self.store,
            strategy=default,
            system_prompt=prompt,
            tools=tools,
            sampling=sampling,
            limits=limits,
        )
        for strategy in self._strategies.values():
            if strategy.name != default.name:  # which agent.yaml may give options
                agent.add_strategy(strategy)
        return agent

    def _default(self) -> Strategy:
        loaded, asked = self._services.loaded, self._services.settings.strategy
        if asked is not None:
            self._check(asked)
            return self._strategies[asked]
        if loaded is not None and loaded.config.agent.strategy is not None:
            own = loaded.config.agent.model_copy(update={"system_prompt": ""})
            return build_strategy(loaded.config.model_copy(update={"agent": own}), self._services.registry)
        name = "plain" if loaded is not None else DEFAULT_STRATEGY
        return self._strategies.get(name, Strategy("plain"))

    def _offered(self) -> dict[str, Strategy]:
        found: dict[str, Strategy] = {}
        registry = self._services.registry
        for name in registry.names("strategy"):
            try:
                found[name] = replace(registry.get("strategy", name).make(), name=name)
            except (PluginError, TypeError):
                continue  # two plugins offer it, or it needs options: agent.yaml can name it, a request not
        return found

    def _check(self, strategy: str | None) -> None:
        if strategy is not None and strategy not in self._strategies:
            hint = did_you_mean(strategy, self.strategies)
            raise ApiError(
                400,
                "unknown_strategy",
                f'there is no strategy "{strategy}".{hint} There are: {", ".join(self.strategies)}',
                param="strategy",
            )


class _Pooled:
    """A model of the pool where ``ChatAgent`` expects a model to be loaded when needed."""

    def __init__(self, pool: ModelPool, name: str, services: Services) -> None:
        self._pool = pool
        self._name = name
        telemetry = services.telemetry
        self._instruments = telemetry.instruments if telemetry is not None else None

    async def agent(self, **parts: Any) -> Agent:
        async with self._pool.lease(self._name) as lease:
            return replace(lease.agent, instruments=self._instruments, **parts)


@contextmanager
def _as_api_errors() -> Iterator[None]:
    """What an answer fails of, as an answer of the server."""
    try:
        yield
    except TurnLimitError as problem:
        raise ApiError(
            503, "turn_limit", "the agent used all its turns on tools and gave no answer"
        ) from problem
    except TurnTimeoutError as problem:
        raise ApiError(503, "timeout", str(problem), retry_after=5.0) from problem


def make_part(services: Services) -> Chats:
    return Chats(services)

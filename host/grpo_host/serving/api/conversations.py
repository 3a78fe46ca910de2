"""Conversations with the served agents: the part ``chat`` of ``Services``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

from grpo_host.agents.agent import Agent
from grpo_host.assembly.from_yaml import own_strategy
from grpo_host.chat.agent import ChatAgent
from grpo_host.chat.answering import Answer
from grpo_host.chat.sql_store import SqlStore
from grpo_host.chat.store import ConversationRecord
from grpo_host.openai_protocol.errors import ApiError
from grpo_host.openai_protocol.tool_runs import ToolRun, shown
from grpo_host.serving.access.caller import Key
from grpo_host.serving.access.idempotency import Claim, Claims, kept_until
from grpo_host.serving.api.served_as import serve_as
from grpo_host.serving.http.errors import agent_errors
from grpo_host.serving.services import Part, Services
from grpo_host.utils.shielded import to_its_end
from grpo_sdk.backend import Sampling
from grpo_sdk.errors import GrpoError, PluginError, did_you_mean
from grpo_sdk.strategy import Strategy

if TYPE_CHECKING:
    from grpo_host.serving.models.catalogue import Entry
    from grpo_host.serving.models.pool import ModelPool

logger = logging.getLogger("grpo_host.serving")

TIDY_SECONDS = 3600.0
"""How often what is kept no longer is deleted."""
DEFAULT_STRATEGY = "customer_service"
"""If there is no agent.yaml and no strategy is named."""


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
    max_tokens: int | None = None
    """None, as with the next two: as the model is served."""
    temperature: float | None = None
    top_p: float | None = None
    idempotency_key: str | None = None
    """The same for a message that is sent again: it is answered once."""


@dataclass(frozen=True, slots=True)
class Said:
    """The whole answer."""

    text: str
    tool_runs: list[ToolRun]
    finish_reason: str | None = None
    """Why it ended: ``length`` if it was cut."""

    @classmethod
    def of(cls, answer: Answer) -> Said:
        """The part of ``answer`` that callers read."""
        reason = answer.turns[-1].finish_reason.value if answer.turns else None
        return cls(answer.text, shown(answer.tools), reason)


@dataclass(frozen=True, slots=True)
class Opened:
    """A message whose conversation is known and whose model is loaded."""

    agent: ChatAgent
    conversation_id: str
    strategy: str
    turn: Turn
    keep: Callable[[dict[str, Any]], Any] | None = None
    """Gives what is to be written with the answer."""
    replayed: ClassVar[bool] = False

    async def answer(self) -> Said:
        """The whole answer; it and the message are in the store then."""
        with agent_errors():
            answer = await self.agent.answer(*self._asked, sampling=self._sampling, also=self._also)
        return Said.of(answer)

    async def pieces(self) -> AsyncIterator[str | Said]:
        """The answer as it comes, and at the end the whole; it is in the store then."""
        with agent_errors():
            pieces = self.agent.pieces(*self._asked, sampling=self._sampling, also=self._also)
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece if isinstance(piece, str) else Said.of(piece)

    @property
    def _also(self) -> Callable[[Answer], Any] | None:
        keep = self.keep
        if keep is None:
            return None
        about = {"conversation_id": self.conversation_id, "strategy": self.strategy}

        def kept(answer: Answer) -> Any:
            said = Said.of(answer)
            runs = [run.model_dump() for run in said.tool_runs]
            told = {"text": said.text, "tool_runs": runs, "finish_reason": said.finish_reason}
            return keep({**about, **told})

        return kept

    @property
    def _asked(self) -> tuple[str, str, str, bool]:
        return self.conversation_id, self.turn.message, self.strategy, self.turn.use_tools

    @property
    def _sampling(self) -> Sampling:
        said = {name: getattr(self.turn, name) for name in ("max_tokens", "temperature", "top_p")}
        return replace(
            self.agent.sampling, **{name: value for name, value in said.items() if value is not None}
        )


@dataclass(frozen=True, slots=True)
class Replayed:
    """A message that was answered before."""

    response: dict[str, Any]
    replayed: ClassVar[bool] = True

    @property
    def conversation_id(self) -> str:
        return str(self.response["conversation_id"])

    @property
    def strategy(self) -> str:
        return str(self.response["strategy"])

    async def answer(self) -> Said:
        """The answer that was given then."""
        runs = [ToolRun.model_validate(run) for run in self.response["tool_runs"]]
        return Said(self.response["text"], runs, self.response.get("finish_reason"))

    async def pieces(self) -> AsyncIterator[str | Said]:
        """The answer that was given then, in one piece."""
        said = await self.answer()
        yield said.text
        yield said


class Chats(Part):
    """Opens conversations, each for the owner of the key that began it."""

    def __init__(self, services: Services) -> None:
        self._pool: ModelPool = services.models
        self._services = services
        self.store = SqlStore.on(services.database)
        self.claims = Claims(services.database)
        self._tidying: asyncio.Task[None] | None = None
        self._agents: dict[str, ChatAgent] = {}
        self._strategies = self._offered()

    @property
    def strategies(self) -> list[str]:
        """Names that a message may ask for."""
        return sorted(self._strategies)

    async def start(self) -> None:
        self._tidying = asyncio.create_task(self._tidy_again_and_again())

    async def close(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)

    async def _tidy_again_and_again(self) -> None:
        while True:
            try:
                await self.tidy()
            except GrpoError as problem:
                logger.warning("old conversations were not deleted: %s", problem)
            await asyncio.sleep(TIDY_SECONDS)

    async def tidy(self) -> None:
        """Delete the conversations, and the answers to requests sent again, that are kept no longer."""
        days = self._services.settings.conversation_days
        if days is not None and (count := await self.store.forget_before(time.time() - days * 86_400)):
            logger.info("%d conversations were deleted, silent for %g days", count, days)
        await self.claims.forget(kept_until())

    @asynccontextmanager
    async def open(self, turn: Turn, key: Key) -> AsyncIterator[Opened | Replayed]:
        """The conversation of ``turn``, begun if it names none.

        Raises ``ApiError``: 404 for a conversation of somebody else, or for a model that is not served,
        400 for an unknown strategy, and what ``Claims.hold`` raises.
        """
        self._check(turn.strategy)
        if turn.idempotency_key is None:
            async with self._open(turn, key, None) as opened:
                yield opened
            return
        request = {**asdict(turn), "idempotency_key": None}
        async with self.claims.hold(key.owner, turn.idempotency_key, request, turn.conversation_id) as claim:
            if claim.response is not None:
                yield Replayed(claim.response)
                return
            async with self._open(turn, key, claim) as opened:
                yield opened

    @asynccontextmanager
    async def _open(self, turn: Turn, key: Key, claim: Claim | None) -> AsyncIterator[Opened]:
        record = None
        if turn.conversation_id:
            record = await self._theirs(self.store.head, turn.conversation_id, key.owner)
        if record is None and claim is not None:  # begun already, where its process died
            record = await self.store.head(claim.conversation_id)
        async with self._pool.lease(turn.model) as lease:
            serve_as(self._services, key, lease.entry)
            agent = self._agents.get(lease.entry.id)
            if agent is None:
                agent = self._agents[lease.entry.id] = self._make(lease.entry)
            conversation_id = claim.conversation_id if claim else uuid4().hex
            if record is not None:
                conversation_id = record.id
            try:
                if record is None:
                    context = await agent.start_conversation(
                        turn.user_id,
                        turn.context,
                        strategy=turn.strategy,
                        conversation_id=conversation_id,
                        owner=key.owner,
                    )
                    strategy = context.strategy
                else:
                    strategy = turn.strategy or record.strategy
                keep = None if claim is None else partial(self.claims.answered, claim)
                yield Opened(agent, conversation_id, strategy, turn, keep)
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

    async def record(
        self, conversation_id: str, owner: str, user_id: str | None = None
    ) -> ConversationRecord:
        """A conversation of ``owner`` (and of this user). Raises ``ApiError`` 404."""
        return await self._theirs(self.store.get, conversation_id, owner, user_id)

    async def _theirs(
        self,
        read: Callable[[str], Awaitable[ConversationRecord | None]],
        conversation_id: str,
        owner: str,
        user_id: str | None = None,
    ) -> ConversationRecord:
        # PostgreSQL keeps no NUL, so there is no conversation of such an id.
        record = None if "\0" in conversation_id else await read(conversation_id)
        if record is None or record.owner != owner or user_id not in (None, record.user_id):
            raise ApiError(404, "not_found", "there is no such conversation")
        return record

    async def delete(self, conversation_id: str, key: Key) -> None:
        """Forget a conversation of the owner of ``key``. Raises ``ApiError`` 404."""
        await self._theirs(self.store.head, conversation_id, key.owner)
        await self.forget(key.owner, conversation_id=conversation_id)

    async def forget(self, owner: str, user_id: str | None = None, conversation_id: str | None = None) -> int:
        """Forget the conversations of ``owner``, and what is kept to answer again; how many there were."""
        count = await self.store.forget(owner, user_id, conversation_id)
        if count:
            await self.claims.forget(kept_until())
        return count

    async def export(self, owner: str, user_id: str | None = None) -> AsyncIterator[ConversationRecord]:
        """All conversations of ``owner``, whole."""
        for conversation_id in await self.store.ids(owner, user_id):
            record = await self.store.get(conversation_id)
            if record is not None:  # else it was deleted meanwhile
                yield record

    def _make(self, model: Entry) -> ChatAgent:
        loaded = self._services.loaded
        config = loaded.config if loaded else None
        default = self._with_environments_tools(self._default())
        agent = ChatAgent(
            _Pooled(self._pool, model.id, self._services),  # type: ignore[arg-type]  # as LocalModel, but shared
            store=self.store,
            strategy=default,
            system_prompt=config.agent.system_prompt if config else "",
            tools=self._pool.tools.of(Strategy("all")),
            sampling=self._pool.sampling(model),
            limits=self._pool.limits,
        )
        for strategy in self._strategies.values():
            if strategy.name != default.name:  # which agent.yaml may give options
                agent.add_strategy(self._with_environments_tools(strategy))
        return agent

    def _with_environments_tools(self, strategy: Strategy) -> Strategy:
        if strategy.tools is None:
            return strategy
        theirs = [tool.name for tool in self._pool.tools.environments]
        return replace(strategy, tools=tuple(dict.fromkeys([*strategy.tools, *theirs])))

    def _default(self) -> Strategy:
        loaded, asked = self._services.loaded, self._services.settings.strategy
        if asked is not None:
            self._check(asked)
            return self._strategies[asked]
        if loaded is not None and (own := own_strategy(loaded)) is not None:
            return own
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
    """Gives ``ChatAgent``, which expects a model that loads when needed, a model of the pool."""

    def __init__(self, pool: ModelPool, name: str, services: Services) -> None:
        self._pool = pool
        self._name = name
        telemetry = services.telemetry
        self._instruments = telemetry.instruments if telemetry is not None else None

    async def agent(self, **parts: Any) -> Agent:
        async with self._pool.lease(self._name) as lease:
            return replace(lease.agent, instruments=self._instruments, **parts)


def make_part(services: Services) -> Chats:
    return Chats(services)

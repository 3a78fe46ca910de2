"""Hold many conversations with people at once, each in order, kept in a store."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.reply import OnText
from grpo_host.agents.streaming import astreamed
from grpo_host.agents.tracing import Instruments
from grpo_host.backends.event_loop import run_blocking
from grpo_host.backends.local_model import LocalModel, installed_plugins
from grpo_host.cache.tools import Cacheable, mark_of
from grpo_host.chat.answering import Answer, Answering, Window
from grpo_host.chat.caching import CachedBackend, cached_tool
from grpo_host.chat.prompt import Examples
from grpo_host.chat.store import (
    ConflictError,
    ConversationNotFoundError,
    ConversationRecord,
    ConversationStore,
    MemoryStore,
)
from grpo_host.chat.turns import Turns
from grpo_host.telemetry.agents import instruments
from grpo_host.utils.shielded import to_its_end
from grpo_sdk.backend import Capability, Sampling
from grpo_sdk.bundles import LiveBundle, ToolBundle, bundle_schemas
from grpo_sdk.cache import Cache
from grpo_sdk.errors import CapabilityError, ConfigError
from grpo_sdk.messages import Message
from grpo_sdk.seeds import derive_seed
from grpo_sdk.strategy import Strategy
from grpo_sdk.tools import BoundTool, ToolLike, bind

logger = logging.getLogger("grpo_host.chat")

_TRIES = 3
"""How often an answer is generated again if another process was faster."""


@dataclass(frozen=True, slots=True)
class ConversationContext:
    """A conversation that was begun."""

    conversation_id: str
    user_id: str | None = None
    strategy: str = ""
    context: dict[str, Any] = field(default_factory=dict)
    """The facts that it began with; the model is told them."""
    created: float = 0.0
    """Unix time."""


class ChatAgent:
    """Talks with ``model``: a model that is loaded when needed, or a started agent.

    ``strategy`` is that of conversations which name none: a registered name or a ``Strategy``.
    ``examples`` (a ``DialogueDatabase``) shows the model the dialogues nearest to a message. ``cache``
    keeps deterministic answers and the results of cacheable tools. The caller closes the store and
    the cache that it gave. Raises ``ConfigError`` for what is none of these, ``PluginError`` for an
    unknown strategy.
    """

    def __init__(
        self,
        model: LocalModel | Agent,
        *,
        store: ConversationStore | None = None,
        strategy: str | Strategy | None = None,
        system_prompt: str = "",
        tools: Iterable[ToolLike | ToolBundle] = (),
        sampling: Sampling | None = None,
        limits: AgentLimits | None = None,
        window: Window | None = None,
        examples: Examples | None = None,
        cache: Any = None,
        seed: int | None = None,
        debug: bool = False,
    ) -> None:
        _check_parts(examples, cache, store)
        own = model if isinstance(model, Agent) else None
        self.model = model
        self.store = store or MemoryStore()
        self.window = window or Window()
        self.sampling = sampling or (own.sampling if own else Sampling())
        self.limits = limits or (own.limits if own else AgentLimits())
        self.debug = debug
        self._system_prompt = system_prompt
        self._examples = examples
        self._cache = cache
        self._seed = seed
        self._strategies: dict[str, Strategy] = {}
        self._tools: dict[str, BoundTool] = {}
        self._bundles: list[LiveBundle] = []
        self._contexts: dict[str, ConversationContext] = {}
        self._turns = Turns()
        self._unnamed = f"agent {uuid4().hex}"
        if strategy is None:
            strategy = own.strategy if own else "plain"
        self.strategy = self.add_strategy(strategy) if isinstance(strategy, Strategy) else strategy
        self._strategy(self.strategy)
        for tool in [*(own.tools if own else ()), *tools]:
            self.add_tool(tool)

    async def ready(self) -> Agent:
        """The started agent behind all conversations: to train, to evaluate, to serve."""
        parts: dict[str, Any] = {
            "strategy": self._strategy(self.strategy),
            "tools": tuple(self._tools.values()),
            "sampling": self.sampling,
            "limits": self.limits,
        }
        if isinstance(self.model, Agent):
            return replace(self.model, **parts)
        return await self.model.agent(**parts)

    def add_strategy(self, strategy: Strategy) -> str:
        """Offer a strategy under its name, also in place of a plugin's; return the name."""
        self._strategies[strategy.name] = strategy
        return strategy.name

    def add_tool(
        self,
        tool: ToolLike | ToolBundle,
        *,
        name: str | None = None,
        cacheable: bool | None = None,
        ttl: float | None = None,
    ) -> None:
        """Offer a tool, or those of a bundle, from the next message on; one of the same name is replaced.

        ``cacheable`` overrules the tool's own mark (``grpo_host.cache.cacheable``): with equal arguments it
        gives an equal result, for ``ttl`` seconds if given. Raises ``TypeError`` if it is no tool,
        ``PluginError`` for a bundle that cannot be opened: it is, to see what it has.
        """
        if isinstance(tool, ToolBundle):
            if name is not None or cacheable is not None or ttl is not None:
                raise TypeError("the tools of a bundle have their own names, and are not cached")
            about = tool.about or getattr(tool.open, "__name__", "of tools")
            live = LiveBundle(f"bundle {about}", tool, run_blocking(bundle_schemas(f"bundle {about}", tool)))
            self._bundles.append(live)
            self._tools |= {one.name: one for one in live.tools}
            return
        bound = bind(tool, name=name)
        mark = mark_of(bound.source)
        if cacheable is not None or ttl is not None:
            mark = Cacheable(ttl) if cacheable is not False else None
        if mark is not None and self._cache is not None:
            bound = cached_tool(bound, self._cache, mark)
        self._tools[bound.name] = bound

    @property
    def tools(self) -> list[str]:
        """Names of the tools that are offered."""
        return list(self._tools)

    async def start_conversation(
        self,
        user_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        strategy: str | Strategy | None = None,
        conversation_id: str | None = None,
        owner: str = "",
    ) -> ConversationContext:
        """Begin a conversation. The model is told ``context``, which must be JSON-able.

        Raises ``ConfigError``, ``PluginError`` for an unknown strategy, and ``ConflictError`` if
        there is a conversation of the id.
        """
        name = self._name(strategy) or self.strategy
        facts = _json_able(context or {})
        record = ConversationRecord(
            conversation_id or uuid4().hex, user_id, name, facts, owner=owner, created=time.time()
        )
        await to_its_end(self.store.create(record))
        return self._remember(record)

    async def respond(
        self,
        conversation_id: str,
        message: str,
        strategy: str | Strategy | None = None,
        use_tools: bool = True,
    ) -> str:
        """What the assistant answers to ``message``.

        ``strategy`` applies from now on. Messages to one conversation are answered one after another;
        nothing of an answer that fails or is cancelled is kept. Raises
        ``ConversationNotFoundError``, ``ContextOverflowError``, ``TurnLimitError``,
        ``TurnTimeoutError``, what the backend raises, and ``ConflictError`` if another process has
        answered in this conversation meanwhile and this answer's tools have run.
        """
        return (await self.answer(conversation_id, message, strategy, use_tools)).text

    async def answer(
        self,
        conversation_id: str,
        message: str,
        strategy: str | Strategy | None = None,
        use_tools: bool = True,
        *,
        sampling: Sampling | None = None,
        on_text: OnText | None = None,
        also: Callable[[Answer], Any] | None = None,
        watched: Instruments | None = None,
    ) -> Answer:
        """As ``respond``: the answer with the tools that were called for it.

        ``sampling`` is for this answer only. ``on_text`` gets the text as it comes. ``watched`` is told of
        this answer in place of the telemetry.
        ``also`` gives what a ``SqlStore`` is to write in one transaction with the answer.
        """
        if not isinstance(message, str):
            raise TypeError(f"a message is a text, not {type(message).__name__}")
        asked = self._name(strategy)
        started = time.perf_counter()
        async with self._turns.of(conversation_id):
            for attempt in range(1, _TRIES + 1):
                record = await self.record(conversation_id)
                name = asked or record.strategy or self.strategy
                answer = await self._answer(record, message, name, use_tools, sampling, on_text, watched)
                more = {} if also is None else {"also": also(answer)}
                try:
                    await to_its_end(
                        self.store.append(
                            conversation_id,
                            answer.messages,
                            expected=record.length,
                            strategy=name if name != record.strategy else None,
                            digest=answer.digest,
                            **more,
                        )
                    )
                    break
                except ConflictError:
                    if attempt == _TRIES or not answer.repeatable:
                        raise
            self._remember(replace(record, strategy=name))
        if self.debug:
            logger.debug(
                "conversation %s: answered in %.3f s, strategy %s: %s",
                conversation_id, time.perf_counter() - started, name, answer.messages,
            )  # fmt: skip
        return answer

    async def stream(
        self,
        conversation_id: str,
        message: str,
        strategy: str | Strategy | None = None,
        use_tools: bool = True,
    ) -> AsyncIterator[str]:
        """As ``respond``, piece by piece, tool calls left out.

        What the model says before it uses a tool is part of it, followed by a blank line; ``respond``
        gives only the last message. Leaving early cancels the answer.
        """
        async with aclosing(self.pieces(conversation_id, message, strategy, use_tools)) as pieces:
            async for piece in pieces:
                if isinstance(piece, str):
                    yield piece

    async def pieces(
        self,
        conversation_id: str,
        message: str,
        strategy: str | Strategy | None = None,
        use_tools: bool = True,
        *,
        sampling: Sampling | None = None,
        also: Callable[[Answer], Any] | None = None,
    ) -> AsyncGenerator[str | Answer]:
        """As ``stream``, and at the end the whole ``Answer``."""

        def ask(on_text: OnText) -> Coroutine[Any, Any, Answer]:
            return self.answer(
                conversation_id,
                message,
                strategy,
                use_tools,
                sampling=sampling,
                on_text=on_text,
                also=also,
            )

        async with aclosing(astreamed(ask)) as pieces:
            async for piece in pieces:
                if piece:
                    yield piece

    async def history(self, conversation_id: str) -> list[Message]:
        """All messages of a conversation: of users, assistant and tools."""
        return (await self.record(conversation_id)).messages

    async def record(self, conversation_id: str) -> ConversationRecord:
        """The conversation as it is stored. Raises ``ConversationNotFoundError``."""
        record = await self.store.get(conversation_id)
        if record is None:
            raise ConversationNotFoundError(conversation_id)
        return record

    @property
    def conversations(self) -> list[ConversationContext]:
        """The conversations of this object that have not ended, the oldest first."""
        return list(self._contexts.values())

    async def end_conversation(self, conversation_id: str, *, delete: bool = False) -> None:
        """Forget the conversation in this object; with ``delete``, remove it from the store too."""
        self._contexts.pop(conversation_id, None)
        if delete:
            await self.store.delete(conversation_id)

    async def close(self) -> None:
        """Release the model, unless an agent was given, and close the bundles."""
        for bundle in self._bundles:
            await bundle.close()
        if isinstance(self.model, LocalModel):
            await self.model.close()

    async def _answer(
        self,
        record: ConversationRecord,
        message: str,
        strategy: str,
        use_tools: bool,
        sampling: Sampling | None,
        on_text: OnText | None,
        watched: Instruments | None,
    ) -> Answer:
        chosen = self._strategy(strategy)
        agent = await self.ready()
        if agent.instruments is None:
            agent = replace(agent, instruments=watched or instruments())
        tools = [
            tool
            for tool in self._tools.values()
            if use_tools and (chosen.tools is None or tool.name in chosen.tools)
        ]
        _check_tools(agent, tools)
        if self._cache is not None:
            agent = replace(agent, backend=CachedBackend(agent.backend, self._cache, self._identity))
        return await Answering(
            replace(agent, strategy=chosen, tools=tuple(tools), sampling=sampling or agent.sampling),
            record,
            message,
            self.window,
            examples=self._examples,
            on_text=on_text,
            seed=None if self._seed is None else derive_seed(self._seed, record.length),
            debug=self.debug,
        ).answer()

    def _identity(self) -> str:
        if isinstance(self.model, LocalModel):
            return self.model.identity()
        backend = self.model.backend  # only its owner knows where its weights come from
        return f"{self._unnamed} {getattr(backend, 'weight_version', '')} {getattr(backend, 'weights', '')}"

    def _name(self, strategy: str | Strategy | None) -> str | None:
        if isinstance(strategy, Strategy):
            if self._strategies.get(strategy.name, strategy) != strategy:
                raise ConfigError(
                    f'the strategy "{strategy.name}" is another one in other conversations. Give it '
                    "a name of its own, or replace it everywhere with add_strategy"
                )
            return self.add_strategy(strategy)
        if strategy is not None:
            self._strategy(strategy)  # an unknown one is refused before anything happens
        return strategy

    def _strategy(self, name: str) -> Strategy:
        found = self._strategies.get(name)
        if found is None:
            found = self._strategies[name] = registered_strategy(name)
        if not self._system_prompt:
            return found
        prompts = [text for text in (found.system_prompt, self._system_prompt) if text]
        return replace(found, system_prompt="\n".join(prompts))

    def _remember(self, record: ConversationRecord) -> ConversationContext:
        context = ConversationContext(
            record.id, record.user_id, record.strategy, record.context, record.created
        )
        self._contexts[record.id] = context
        return context


def registered_strategy(name: str) -> Strategy:
    """The strategy that a plugin offers as ``name``. Raises ``PluginError``."""
    made = installed_plugins().get("strategy", name).make()
    if not isinstance(made, Strategy):
        raise ConfigError(f'the strategy "{name}" is {type(made).__name__}, not a Strategy')
    return made


def _check_parts(examples: object, cache: object, store: object) -> None:
    if examples is not None and not isinstance(examples, Examples):
        raise ConfigError(
            f"dialogue_database (examples): {type(examples).__name__} has no search(). Give a "
            "DialogueDatabase; it is made of a list of dialogues or of a file: DialogueDatabase(source)"
        )
    if cache is not None and not isinstance(cache, Cache):
        raise ConfigError(
            f"cache_service (cache): {type(cache).__name__} is no cache, which has get() and set(). "
            "Give a CacheService"
        )
    if store is not None and not isinstance(store, ConversationStore):
        raise ConfigError(
            f"store: {type(store).__name__} is no ConversationStore. Give a MemoryStore, or "
            "SqlStore.sqlite(path)"
        )


def _json_able(context: Mapping[str, Any]) -> dict[str, Any]:
    try:
        facts = json.loads(json.dumps(dict(context)))
    except (TypeError, ValueError) as problem:
        raise ConfigError(f"the context of a conversation must be JSON-able: {problem}") from None
    return dict(facts)


def _check_tools(agent: Agent, tools: list[BoundTool]) -> None:
    can = agent.backend.capabilities
    if tools and not {Capability.TOOLS, Capability.TOKEN_IDS} & can:
        raise CapabilityError(
            f"the backend {type(agent.backend).__name__} takes no tools, and "
            f"{', '.join(tool.name for tool in tools)} are registered; answer with use_tools=False, or "
            "choose another backend"
        )

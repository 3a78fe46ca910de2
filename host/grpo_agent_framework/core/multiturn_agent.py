"""``MultiTurnAgent``: the guide's name of ``grpo_host.chat.agent.ChatAgent`` on a model by name."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.backends.event_loop import run_blocking
from grpo_host.chat.agent import ChatAgent, ConversationContext
from grpo_host.chat.answering import Policy, Window
from grpo_host.chat.overview import overview
from grpo_host.chat.settings import ModelSettings
from grpo_host.chat.store import ConversationStore
from grpo_sdk.strategy import Strategy
from grpo_sdk.tools import ToolLike

if TYPE_CHECKING:
    from grpo_host.chat.prompt import Examples
    from grpo_host.dialogues import Dialogue, DialogueDatabase

__all__ = ["ConversationContext", "Dialogue", "DialogueDatabase", "MultiTurnAgent"]


class MultiTurnAgent:
    """Holds many conversations at once through one model, which loads at the first message.

    ``model_config``: see ``grpo_host.chat.settings.ModelSettings``; ``model_type`` names a model or a
    registered strategy. ``max_context_length`` is in tokens, answer included. Of a conversation the
    model is shown ``max_conversation_turns`` exchanges; older ones, or the oldest if more than
    ``context_compression_threshold`` of the context is taken, are summed up by the model, or left out
    with ``compression="drop"``. The store keeps all. ``store`` makes conversations outlive this
    object; it and ``cache_service`` are the caller's to close.

    The same object trains: ``await agent.ready()`` gives the started agent of the host.
    """

    def __init__(
        self,
        model_config: Mapping[str, Any] | None = None,
        *,
        max_context_length: int | None = None,
        max_conversation_turns: int = 20,
        context_compression_threshold: float = 0.8,
        compression: Policy = "summarise",
        dialogue_database: Examples | None = None,
        cache_service: Any = None,
        store: ConversationStore | None = None,
        max_tool_rounds: int = 8,
        debug_mode: bool = False,
    ) -> None:
        settings = ModelSettings.read(model_config)
        self.debug_mode = debug_mode
        self.dialogue_database = dialogue_database
        """Also what a trainer that is given no prompts opens episodes with."""
        if debug_mode:
            logging.getLogger("grpo_host.chat").setLevel(logging.DEBUG)
        self.chat = ChatAgent(
            settings.local_model(max_context_length),
            store=store,
            strategy=settings.strategy,
            system_prompt=settings.system_prompt,
            sampling=settings.sampling,
            limits=AgentLimits(turns=max_tool_rounds),
            window=Window(
                max_context_length, max_conversation_turns, context_compression_threshold, compression
            ),
            examples=dialogue_database,
            cache=cache_service,
            seed=settings.seed,
            debug=debug_mode,
        )

    async def ready(self) -> Agent:
        """The started agent of the host behind all conversations: to train, to evaluate, to serve."""
        return await self.chat.ready()

    async def start_conversation(
        self,
        user_id: str | None = None,
        initial_context: Mapping[str, Any] | None = None,
        *,
        strategy: str | Strategy | None = None,
    ) -> ConversationContext:
        """Begin a conversation; the model is told ``initial_context``."""
        return await self.chat.start_conversation(user_id, initial_context, strategy=strategy)

    async def generate_multiturn_response(
        self,
        conversation_id: str,
        message: str,
        strategy: str | Strategy | None = None,
        use_tools: bool = True,
    ) -> str:
        """The answer to ``message``; see ``ChatAgent.respond``."""
        return await self.chat.respond(conversation_id, message, strategy, use_tools)

    def stream_multiturn_response(
        self,
        conversation_id: str,
        message: str,
        strategy: str | Strategy | None = None,
        use_tools: bool = True,
    ) -> AsyncIterator[str]:
        """The answer to ``message``, piece by piece; see ``ChatAgent.stream``."""
        return self.chat.stream(conversation_id, message, strategy, use_tools)

    async def generate_response(self, prompt: str) -> str:
        """The answer to ``prompt`` in a conversation of its own, which is not kept."""
        context = await self.chat.start_conversation()
        try:
            return await self.chat.respond(context.conversation_id, prompt)
        finally:
            await self.chat.end_conversation(context.conversation_id, delete=True)

    def register_tool(
        self, name: str, function: ToolLike, *, cacheable: bool | None = None, ttl: float | None = None
    ) -> None:
        """Offer ``function`` to the model as ``name``; see ``ChatAgent.add_tool``."""
        self.chat.add_tool(function, name=name, cacheable=cacheable, ttl=ttl)

    def get_active_conversations(self) -> list[ConversationContext]:
        """The conversations that this object has begun or gone on with, and that are not ended."""
        return self.chat.conversations

    def get_conversation_summary(self, conversation_id: str) -> dict[str, Any]:
        """Who, since when, how many turns, which tools, and the last words; JSON-able."""
        return overview(run_blocking(self.chat.record(conversation_id)), now=time.time())

    async def end_conversation(self, conversation_id: str, *, delete: bool = False) -> None:
        """Forget it in this object; with ``delete``, remove it from the store too."""
        await self.chat.end_conversation(conversation_id, delete=delete)

    @property
    def context_compression_threshold(self) -> float:
        """Share of the context from which older turns are compressed; can be set at any time."""
        return self.chat.window.threshold

    @context_compression_threshold.setter
    def context_compression_threshold(self, threshold: float) -> None:
        self.chat.window = replace(self.chat.window, threshold=threshold)

    @property
    def max_context_length(self) -> int | None:
        """Tokens; None: as many as the model takes, 2,048 at most."""
        return self.chat.window.tokens

    @max_context_length.setter
    def max_context_length(self, tokens: int | None) -> None:
        self.chat.window = replace(self.chat.window, tokens=tokens)

    @property
    def max_conversation_turns(self) -> int:
        """How many exchanges the model is shown word for word."""
        return self.chat.window.turns

    @max_conversation_turns.setter
    def max_conversation_turns(self, turns: int) -> None:
        self.chat.window = replace(self.chat.window, turns=turns)

    async def close(self) -> None:
        """Release the model."""
        await self.chat.close()

    async def __aenter__(self) -> MultiTurnAgent:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def __getattr__(name: str) -> Any:
    if name in ("Dialogue", "DialogueDatabase"):
        import grpo_host.dialogues

        return getattr(grpo_host.dialogues, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

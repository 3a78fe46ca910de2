"""Sources of a chat model's answers, and the protocol that they follow."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from grpo_host.agents.reply import OnText, Reply
from grpo_host.agents.shown import shown_reply
from grpo_host.agents.speakers import speakers_in_text
from grpo_host.backends.event_loop import LoopThread
from grpo_host.telemetry.agents import instruments
from grpo_sdk.backend import Capability, Sampling
from grpo_sdk.messages import Message, ToolSchema

if TYPE_CHECKING:
    from grpo_host.agents.agent import Agent
    from grpo_host.backends.local_model import LocalModel

T = TypeVar("T")

Overrides: TypeAlias = Mapping[str, Any]
"""Fields of ``Sampling`` that a call sets; the others are as the source has them."""

CALLER: ContextVar[Mapping[str, Any]] = ContextVar("grpo_langchain_caller")
"""While a source answers: the metadata of LangChain's run that asks, such as ``langgraph_node``."""
BEGUN: ContextVar[Mapping[str, Any] | None] = ContextVar("grpo_langchain_begun", default=None)
"""The metadata of the run of a chat model that began last in this context, if a handler heard of it."""


class HasLoop(Protocol):
    """Runs coroutines for code that cannot await."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Another thread turns it."""


class ModelSource(Protocol):
    """Answers the calls of a chat model, which does not know what it is."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def context(self) -> int | None:
        """Tokens, prompt and answer together; None if it is not known."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Of the backend that answers."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where ``respond`` runs for code without an event loop; another thread turns it."""

    async def respond(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema],
        overrides: Overrides,
        on_text: OnText | None = None,
    ) -> Reply:
        """The answer to the conversation ``messages``, of which no tool call is run.

        It is awaited in any event loop. ``on_text`` is given the answer's text as it comes, in any thread.
        The message is as the app is to see it: see ``grpo_host.agents.shown``. Cancelling ends the
        generation.
        """


def submit(source: HasLoop, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Begin ``coroutine`` in the loop of ``source``, for code that cannot await, with its context variables.

    Raises ``RuntimeError`` in that very loop, which would wait for itself.
    """
    try:
        loop = source.loop
        if asyncio._get_running_loop() is loop:
            raise RuntimeError(
                "a synchronous call of the model, in the event loop that has to answer it, would wait "
                "forever; await ainvoke() or astream() there, or make the call in a thread"
            )
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except BaseException:
        coroutine.close()
        raise


def wait_for(source: HasLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, for code that cannot await. An interrupt cancels it."""
    future = submit(source, coroutine)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def streamed(
    source: HasLoop, ask: Callable[[OnText], Coroutine[Any, Any, T]]
) -> Generator[str | T, None, None]:
    """The texts that ``ask`` is told as they come, and then its result, for code that cannot await.

    Closing it cancels the answer.
    """
    texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    answer = submit(source, ask(texts.put))
    answer.add_done_callback(lambda _: texts.put(None))
    try:
        while (text := texts.get()) is not None:
            yield text
        yield answer.result()
    finally:
        answer.cancel()


class BackendSource:
    """``model``, which is loaded when it is first asked."""

    def __init__(
        self,
        model: LocalModel,
        *,
        name: str,
        capabilities: frozenset[Capability],
        sampling: Sampling,
        context: int | None = None,
    ) -> None:
        self.name = name
        self.context = context
        self.capabilities = capabilities
        self._model = model
        self._sampling = sampling

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return loop_of_callers()

    async def respond(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema],
        overrides: Overrides,
        on_text: OnText | None = None,
    ) -> Reply:
        sampling = replace(self._sampling, **overrides)
        agent: Agent = await self._model.agent(sampling=sampling, instruments=instruments())
        self.context = agent.backend.model.context
        if agent.renderer is not None:
            messages = speakers_in_text(messages)
        conversation = agent.open(offered=tools, history=messages)
        return await shown_reply(lambda told: conversation.respond((), told), sampling.stop, on_text)

    async def close(self) -> None:
        """Release the model; the next call loads it again."""
        await self._model.close()


def loop_of_callers() -> asyncio.AbstractEventLoop:
    """The event loop of all synchronous calls of models that can be asked in any loop."""
    return _thread().loop


@cache
def _thread() -> LoopThread:
    return LoopThread("grpo-langchain")

"""``GrpoAgent``: a whole agent, with its instructions, tools and limits, as a Runnable of LangChain's."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel

from grpo_host.agents.agent import Agent, AgentLimits, Conversation
from grpo_host.agents.rendering.tool_calls import as_written
from grpo_host.agents.reply import OnText
from grpo_host.agents.streaming import astreamed
from grpo_host.agents.tracing import Instruments
from grpo_host.assembly.agent import limits_from_config
from grpo_host.assembly.from_yaml import build_strategy
from grpo_host.assembly.served_tools import ServedTools, served_tools
from grpo_host.backends.local_model import LocalModel
from grpo_host.chat.agent import ChatAgent
from grpo_host.chat.store import ConflictError, ConversationStore, MemoryStore
from grpo_host.chat.voice import Voice
from grpo_host.langchain.agent_io import (
    Answered,
    Asked,
    as_chunk,
    asked_messages,
    events_v3,
    refuse,
    thread_of,
)
from grpo_host.langchain.callbacks import CallbackInstruments
from grpo_host.langchain.named_model import NamedModel, find_model
from grpo_host.langchain.source import loop_of_callers, streamed, wait_for
from grpo_host.telemetry.agents import instruments
from grpo_sdk.errors import ConfigError
from grpo_sdk.langchain_messages import from_messages, to_messages, usage
from grpo_sdk.messages import Message
from grpo_sdk.trajectory import Turn

if TYPE_CHECKING:
    from grpo_host.langchain.events import AsyncEvents

MOST_THREADS = 1024
"""Conversations that are kept in memory; those that nobody has gone on with for longest are forgotten."""


class GrpoAgent(Runnable[Any, Any]):
    """Answers a text or messages with an ``AIMessage``, and a state with ``messages`` with that state.

    It calls its tools until it speaks, within its limits, as it was trained. A text with
    ``configurable.thread_id`` goes on with the conversation of that id, which ``store`` keeps (this process,
    if none is given). Inside of a graph the thread is the graph's, which keeps its own messages. A state's
    messages are given back whole, with what the agent added.
    """

    def __init__(
        self,
        model: LocalModel | Agent,
        *,
        name: str = "agent",
        model_name: str | None = None,
        store: ConversationStore | None = None,
        **parts: Any,
    ) -> None:
        self.name = name
        self._threads: OrderedDict[str, None] | None = None if store is not None else OrderedDict()
        self._chat = ChatAgent(model, store=store or MemoryStore(), **parts)
        self._model_name = model_name
        self._served: ServedTools | None = None

    @classmethod
    def from_yaml(cls, path: str | Path, *, store: ConversationStore | None = None) -> GrpoAgent:
        """The agent of an agent.yaml, as it is served. Raises what its parts raise."""
        return cls._found(find_model(agent_yaml=str(path)), store)

    @classmethod
    def from_run(cls, run: str | Path, *, store: ConversationStore | None = None) -> GrpoAgent:
        """The agent that the training run in the directory ``run`` has trained."""
        return cls._found(find_model(run=str(run)), store)

    @classmethod
    def _found(cls, found: NamedModel, store: ConversationStore | None) -> GrpoAgent:
        if found.loaded is None:
            raise TypeError("an agent is one of an agent.yaml")
        config, strategy = found.loaded.config, build_strategy(found.loaded)
        served = served_tools(found.loaded)
        made = cls(
            found.model,
            name=config.name,
            model_name=found.name,
            store=store,
            strategy=strategy,
            tools=served.of(strategy),
            sampling=found.sampling,
            limits=limits_from_config(config.agent.limits),
        )
        made._served = served
        return made

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop in which it runs for code that cannot await."""
        return loop_of_callers()

    @property
    def limits(self) -> AgentLimits:
        """What one answer may take."""
        return self._chat.limits

    def invoke(self, input: Asked, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        refuse(kwargs)

        def answer(given: Asked, run_manager: CallbackManagerForChainRun, config: RunnableConfig) -> Answered:
            return wait_for(self, self._answer(given, run_manager, config))

        return self._call_with_config(answer, input, self._named(config), run_type="chain")

    async def ainvoke(self, input: Asked, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        refuse(kwargs)

        async def answer(
            given: Asked, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
        ) -> Answered:
            return await self._answer(given, run_manager.get_sync(), config)

        return await self._acall_with_config(answer, input, self._named(config), run_type="chain")

    def stream(self, input: Asked, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """The text as it comes; what the agent says before it uses a tool is part of it."""
        refuse(kwargs)

        def pieces(
            inputs: Iterator[Asked], run_manager: CallbackManagerForChainRun, config: RunnableConfig
        ) -> Iterator[Any]:
            (given,) = inputs
            told = streamed(self, lambda on_text: self._answer(given, run_manager, config, on_text))
            with closing(told):
                for piece in told:
                    if (shown := as_chunk(piece, given)) is not None:
                        yield shown

        yield from self._transform_stream_with_config(
            iter([input]), pieces, self._named(config), run_type="chain"
        )

    async def astream(
        self, input: Asked, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        """As ``stream``."""
        refuse(kwargs)

        async def pieces(
            inputs: AsyncIterator[Asked],
            run_manager: AsyncCallbackManagerForChainRun,
            config: RunnableConfig,
        ) -> AsyncIterator[Any]:
            given = await anext(inputs)
            manager = run_manager.get_sync()
            told = astreamed(lambda on_text: self._answer(given, manager, config, on_text))
            async with aclosing(told):
                async for piece in told:
                    if (shown := as_chunk(piece, given)) is not None:
                        yield shown

        async def one() -> AsyncIterator[Asked]:
            yield input

        async for piece in self._atransform_stream_with_config(
            one(), pieces, self._named(config), run_type="chain"
        ):
            yield piece

    def stream_events(
        self, input: Asked, config: RunnableConfig | None = None, *, version: str = "v2", **kwargs: Any
    ) -> Any:
        """Version v3: the answer to a text or messages as it comes, as a chat model's ``stream_events``."""
        if version != "v3":
            return super().stream_events(input, config, version=cast("Any", version), **kwargs)
        return events_v3(input).events(self.stream(input, config, **kwargs))

    def astream_events(
        self, input: Asked, config: RunnableConfig | None = None, *, version: str = "v2", **kwargs: Any
    ) -> Any:
        """Version v2: of the agent, its model and its tools. Version v3: as ``stream_events``, awaited."""
        if version != "v3":
            return super().astream_events(input, config, version=cast("Any", version), **kwargs)
        return self._astream_events_v3(input, config, kwargs)

    async def _astream_events_v3(
        self, input: Asked, config: RunnableConfig | None, kwargs: Mapping[str, Any]
    ) -> AsyncEvents:
        told: AsyncEvents = events_v3(input).AsyncEvents(self.astream(input, config, **kwargs))
        return told

    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: dict[str, type] | None = None,
    ) -> BaseTool:
        """The agent as a tool of another: a message in, the text of the answer out."""
        if args_schema is not None or arg_types is not None:
            raise ConfigError("the tool of a GrpoAgent takes a message; leave out args_schema and arg_types")

        def ask(message: str) -> str:
            return str(self.invoke(message).text)

        async def aask(message: str) -> str:
            return str((await self.ainvoke(message)).text)

        return StructuredTool.from_function(
            ask,
            aask,
            name=name or re.sub(r"\W+", "_", str(self.name)),
            description=description or f"Ask {self.name}, another agent, which answers with a text.",
        )

    async def aclose(self) -> None:
        """Release the model and what its tools need."""
        await self._chat.close()
        if self._served is not None:
            await self._served.close()

    def _named(self, config: RunnableConfig | None) -> RunnableConfig:
        """``config``, with which LangGraph and tracers tell whose calls they see."""
        own = RunnableConfig(run_name=str(self.name), metadata={"lc_agent_name": self.name})
        return merge_configs(own, config)

    async def _answer(
        self,
        given: Asked,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        on_text: OnText | None = None,
    ) -> Answered:
        watched: Instruments | None = instruments()
        callbacks = run_manager.get_child()
        said: list[str] = []
        if callbacks.handlers:
            watched = told = CallbackInstruments(callbacks, watched)
            said = told.said
            if on_text is None and told.streams:
                on_text = _nobody
        messages = asked_messages(given)
        thread = thread_of(config)
        if thread is not None:
            return await self._go_on(thread, messages, watched, on_text)
        agent = replace(await self._chat.ready(), instruments=watched)
        conversation = agent.open(history=to_messages(messages))
        last = await conversation.act((), _spoken(conversation, on_text))
        reason = conversation.turns[-1].finish_reason
        answer = self._message(as_written(last)["content"], conversation.turns, reason.value)
        if not isinstance(given, Mapping):
            return answer
        added = [*from_messages([as_written(message) for message in conversation.said[:-1]]), answer]
        for message, id in zip((item for item in added if isinstance(item, AIMessage)), said, strict=False):
            message.id = id  # so that a graph's stream shows no message twice
        return {**given, "messages": [*messages, *added]}

    async def _go_on(
        self,
        thread: str,
        messages: Sequence[BaseMessage],
        watched: Instruments | None,
        on_text: OnText | None,
    ) -> AIMessage:
        if len(messages) != 1 or not isinstance(messages[0], HumanMessage):
            raise ConfigError(
                f'the conversation of the thread "{thread}" is kept here: give the one new message of its '
                "user, or leave out configurable.thread_id"
            )
        (new,) = to_messages(messages)
        if await self._chat.store.get(thread) is None:
            with suppress(ConflictError):  # another call has begun it meanwhile
                await self._chat.start_conversation(conversation_id=thread)
        answer = await self._chat.answer(thread, new["content"], on_text=on_text, watched=watched)
        await self._forget_some(thread)
        return self._message(answer.text, answer.turns, "stop")

    async def _forget_some(self, latest: str) -> None:
        if self._threads is None:
            return
        self._threads[latest] = None
        self._threads.move_to_end(latest)
        while len(self._threads) > MOST_THREADS:
            oldest, _ = self._threads.popitem(last=False)
            await self._chat.end_conversation(oldest, delete=True)

    def _message(self, text: str, turns: Sequence[Turn], finish_reason: str) -> AIMessage:
        prompt = sum(turn.prompt_tokens for turn in turns)
        completion = sum(turn.completion_tokens for turn in turns)
        metadata = {"finish_reason": finish_reason, "model_provider": "grpo"}
        if self._model_name is not None:
            metadata["model_name"] = self._model_name
        return AIMessage(
            content=text, name=self.name, usage_metadata=usage(prompt, completion), response_metadata=metadata
        )


def _nobody(_: str) -> None:
    """Ignores a text that is only for callbacks."""


def _spoken(conversation: Conversation, on_text: OnText | None) -> OnText | None:
    """``on_text``, given a blank line between one message of the answer and the next."""
    if on_text is None:
        return None
    voice = Voice(on_text)

    def next_message(_: list[Message]) -> None:
        voice.next_message()

    conversation.prepare = next_message
    return voice

"""``ChatGrpo``: any model of ours as a LangChain chat model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.exceptions import ContextOverflowError as LangChainContextOverflowError
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.runnables.config import ensure_config
from pydantic import ConfigDict, Field, PrivateAttr

from grpo_host.agents.reply import OnText, Reply
from grpo_host.agents.streaming import astreamed
from grpo_host.langchain.asking import Asked, LangChainTool, asked, tool_choice, tool_schemas
from grpo_host.langchain.source import BEGUN, CALLER, BackendSource, ModelSource, streamed, wait_for
from grpo_host.langchain.structured import Method, structured
from grpo_sdk.backend import Backend, Capability
from grpo_sdk.errors import ConfigError, ContextOverflowError
from grpo_sdk.langchain_messages import to_ai_message, to_messages, usage


class PromptTooLongError(ContextOverflowError, LangChainContextOverflowError):
    """The prompt leaves no space for an answer; LangChain's middleware knows it by its own name."""


class ChatGrpo(BaseChatModel):
    """A model of ours, which loads when it is first asked, as a chat model of LangChain's.

    It is found by what is given: ``agent_yaml`` (its backend, model and sampling), ``run`` (the directory of
    a training run: what it has trained), ``backend`` (one that is not started), ``model`` (an alias, hub id
    or directory, on the backend called ``backend`` or the best there is), or ``source``. Raises
    ``ConfigError`` if that is nothing or contradicts itself, and what the parts of agent.yaml raise.
    """

    model: str | None = None
    agent_yaml: str | None = None
    run: str | None = None
    backend: str | Backend | None = None
    source: Any = Field(default=None, exclude=True, repr=False)
    """A ``grpo_host.langchain.source.ModelSource``."""
    max_tokens: int | None = None
    """Longest answer, in tokens; this and the following: None means as agent.yaml says."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] | None = None
    seed: int | None = None
    streaming: bool = False
    """True: every call streams, so that callbacks are given the text as it comes."""
    timeout: float | None = None
    """Seconds that a call may take; then it raises ``TimeoutError``."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    _source: ModelSource = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Find the model; nothing is loaded."""
        if self.source is not None:
            self._source = self.source
            return
        from grpo_host.langchain.named_model import find_model

        self._source = find_model(
            model=self.model, agent_yaml=self.agent_yaml, run=self.run, backend=self.backend
        ).source()

    @classmethod
    def from_yaml(cls, path: str | Path, **parameters: Any) -> Self:
        """The model of an agent.yaml, on its backend, sampled as it is served."""
        return cls(agent_yaml=str(path), **parameters)

    @classmethod
    def from_run(cls, run: str | Path, **parameters: Any) -> Self:
        """What the training run in the directory ``run`` has trained, sampled as it was measured."""
        return cls(run=str(run), **parameters)

    def close(self) -> None:
        """Release the model, if it was found here; the next call loads it again."""
        if isinstance(self._source, BackendSource):
            wait_for(self._source, self._source.close())

    @property
    def model_name(self) -> str:
        """Of the model that answers."""
        return self._source.name

    @property
    def _llm_type(self) -> str:
        return "grpo"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, **self._parameters()}

    def _parameters(self) -> dict[str, Any]:
        names = ("max_tokens", "temperature", "top_p", "top_k", "stop", "seed")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        known = super()._get_ls_params(stop=stop, **kwargs)
        return LangSmithParams(
            **{**known, "ls_provider": "grpo", "ls_model_name": kwargs.get("model") or self.model_name}
        )

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """With a name, an agent.yaml or a run; what was made in Python stays behind."""
        return True

    def _resolve_model_profile(self) -> ModelProfile | None:
        can = self._source.capabilities
        tools = bool({Capability.TOOLS, Capability.TOKEN_IDS} & can)
        structured = Capability.STRUCTURED in can
        profile = ModelProfile(
            name=self.model_name,
            tool_calling=tools,
            tool_choice=tools and structured,
            structured_output=structured,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
        )
        if (context := self._source.context) is not None:
            profile["max_input_tokens"] = context
        return profile

    def bind_tools(
        self,
        tools: Sequence[LangChainTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer ``tools``. ``tool_choice``: auto, none, any (or required), or a tool's name."""
        schemas = tool_schemas(tools)
        _check_choice(tool_choice, schemas)
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=schemas, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        tools: Sequence[LangChainTool] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """The model's answers as ``schema``: a class of pydantic's, a TypedDict, or a JSON schema.

        ``method``: ``json_schema`` holds the text of the answer to it, ``function_calling`` makes it a
        tool's arguments, ``json_mode`` asks for any JSON object. Sampling is constrained always, whatever
        ``strict`` says. An answer that was cut raises ``OutputParserException``; with ``include_raw`` that
        is the ``parsing_error`` beside ``raw`` and ``parsed``. ``tools`` may be called instead of
        answering.
        """
        return structured(self, schema, method, include_raw=include_raw, tools=tools, kwargs=kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._result(
            wait_for(self._source, self._reply(messages, self._asked(stop, kwargs), run_manager))
        )

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._result(await self._reply(messages, self._asked(stop, kwargs), run_manager))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        wanted = self._asked(stop, kwargs)
        pieces = streamed(self._source, lambda told: self._reply(messages, wanted, run_manager, told))
        with closing(pieces):
            for piece in pieces:
                yield self._chunk(piece)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        wanted = self._asked(stop, kwargs)
        pieces = astreamed(lambda told: self._reply(messages, wanted, run_manager, told))
        async with aclosing(pieces):
            async for piece in pieces:
                yield self._chunk(piece)

    def _asked(self, stop: list[str] | None, kwargs: dict[str, Any]) -> Asked:
        if kwargs.get("model") not in (None, self.model_name):
            raise ConfigError(
                f'{self.model_name} answers here, not "{kwargs["model"]}"; make a ChatGrpo of that model'
            )
        return asked({**self._parameters(), **kwargs, "model": None}, stop, self._source.capabilities)

    async def _reply(
        self,
        messages: list[BaseMessage],
        asked: Asked,
        run: BaseRunManager | None,
        on_text: OnText | None = None,
    ) -> Reply:
        heard = to_messages(messages)
        CALLER.set(_about(run))
        try:
            async with asyncio.timeout(self.timeout):
                reply = await self._source.respond(heard, asked.tools, asked.overrides, on_text)
        except ContextOverflowError as problem:
            raise PromptTooLongError(str(problem)) from problem
        return reply

    def _result(self, reply: Reply) -> ChatResult:
        message = to_ai_message(reply.message)
        message.usage_metadata = usage(reply.prompt_tokens, reply.completion_tokens)
        message.response_metadata = self._metadata(reply)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunk(self, piece: str | Reply) -> ChatGenerationChunk:
        if isinstance(piece, str):
            return ChatGenerationChunk(message=AIMessageChunk(content=piece))
        return self._last_chunk(piece)

    def _last_chunk(self, reply: Reply) -> ChatGenerationChunk:
        whole = to_ai_message(reply.message)
        calls = [
            tool_call_chunk(
                id=call["id"],
                name=call["function"]["name"],
                args=call["function"]["arguments"],
                index=index,
            )
            for index, call in enumerate(reply.message.get("tool_calls", ()))
        ]
        message = AIMessageChunk(
            content="",
            additional_kwargs=whole.additional_kwargs,
            tool_call_chunks=calls,
            usage_metadata=usage(reply.prompt_tokens, reply.completion_tokens),
            response_metadata=self._metadata(reply),
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    def _metadata(self, reply: Reply) -> dict[str, Any]:
        return {
            "finish_reason": reply.finish_reason.value,
            "model_name": self.model_name,
            "model_provider": "grpo",
        }


def _about(run: BaseRunManager | None) -> Mapping[str, Any]:
    """The metadata of the run that asks; a stream is not told its run, and there a handler may have heard."""
    if run is not None:
        return run.metadata
    begun = BEGUN.get()
    return begun if begun is not None else ensure_config().get("metadata") or {}


def _check_choice(said: Any, schemas: Sequence[Any]) -> None:
    tool_choice(said, schemas)

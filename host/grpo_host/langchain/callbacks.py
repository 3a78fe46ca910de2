"""Report an agent's model calls and tools to LangChain's callbacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from langchain_core.callbacks import CallbackManager, CallbackManagerForLLMRun
from langchain_core.messages import AIMessageChunk, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables.config import ensure_config, patch_config, var_child_runnable_config
from langchain_core.tools import ToolException
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langchain_core.utils.utils import LC_ID_PREFIX

from grpo_host.agents.agent import Conversation
from grpo_host.agents.reply import Reply
from grpo_host.agents.tracing import Instruments, ModelCall, Talk
from grpo_sdk.backend import Backend, Sampling
from grpo_sdk.langchain_messages import from_messages, to_ai_message, usage
from grpo_sdk.messages import Message, ToolCall, ToolSchema
from grpo_sdk.trajectory import ToolRun


class CallbackInstruments:
    """Reports a conversation to ``manager``, whose run is the agent's, and to ``inner``."""

    def __init__(self, manager: CallbackManager, inner: Instruments | None) -> None:
        self._manager = manager
        self._inner = inner
        self.said: list[str] = []
        """The ids of the messages that the model has answered with, as LangChain's runs have them."""

    @property
    def streams(self) -> bool:
        """Whether somebody is to be told the text as it comes: a stream of the graph around the agent."""
        return any(isinstance(handler, _StreamingCallbackHandler) for handler in self._manager.handlers)

    @contextmanager
    def invocation(self, conversation: Talk, new: Sequence[Message]) -> Iterator[Callable[[Message], None]]:
        """Only for ``inner``: LangChain reports the agent's run itself."""
        if self._inner is None:
            yield lambda _: None
            return
        with self._inner.invocation(conversation, new) as answered:
            yield answered

    @contextmanager
    def model_call(
        self,
        backend: Backend,
        messages: Sequence[Message],
        sampling: Sampling,
        tools: Sequence[ToolSchema] = (),
        *,
        conversation_id: str | None = None,
    ) -> Iterator[ModelCall]:
        """The run of a chat model."""
        manager = self._manager.copy()
        model = backend.model.name
        about = {
            "ls_provider": "grpo",
            "ls_model_name": model,
            "ls_model_type": "chat",
            "ls_temperature": sampling.temperature,
            "ls_max_tokens": sampling.max_tokens,
        }
        manager.add_metadata(about, inherit=False)
        (run,) = manager.on_chat_model_start(
            {"name": "ChatGrpo"},
            [from_messages(messages)],
            invocation_params={"model": model, "tools": list(tools)},
            name="ChatGrpo",
            batch_size=1,
        )
        with ExitStack() as stack:
            inner = None
            if self._inner is not None:
                inner = stack.enter_context(
                    self._inner.model_call(
                        backend, messages, sampling, tools, conversation_id=conversation_id
                    )
                )
            try:
                yield _ModelRun(run, inner, self.said)
            except BaseException as problem:
                run.on_llm_error(problem, response=LLMResult(generations=[]))
                raise

    @contextmanager
    def tool_call(self, conversation: Talk, call: ToolCall) -> Iterator[Callable[[Message, ToolRun], None]]:
        """The run of a tool; LangChain reports the tools that it runs itself."""
        with ExitStack() as stack:
            told: list[Callable[[Message, ToolRun], None]] = []
            if self._inner is not None:
                told.append(stack.enter_context(self._inner.tool_call(conversation, call)))
            tool = (
                conversation.toolbox.get(call["function"]["name"])
                if isinstance(conversation, Conversation)
                else None
            )
            if tool is None or not tool.through_langchain:
                told.append(stack.enter_context(self._tool_run(call)))

            def answered(message: Message, record: ToolRun) -> None:
                for tell in told:
                    tell(message, record)

            yield answered

    @contextmanager
    def _tool_run(self, call: ToolCall) -> Iterator[Callable[[Message, ToolRun], None]]:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        run = self._manager.on_tool_start(
            {"name": name}, arguments, name=name, inputs=_inputs(arguments), tool_call_id=call["id"]
        )
        within = patch_config(ensure_config(), callbacks=run.get_child())
        token = var_child_runnable_config.set(within)

        def answered(message: Message, record: ToolRun) -> None:
            if record.error is not None:
                run.on_tool_error(ToolException(record.error), tool_call_id=call["id"])
            else:
                said = ToolMessage(message["content"], name=name, tool_call_id=call["id"])
                run.on_tool_end(said, name=name)

        try:
            yield answered
        except BaseException as problem:
            run.on_tool_error(problem, tool_call_id=call["id"])
            raise
        finally:
            var_child_runnable_config.reset(token)


class _ModelRun:
    """One model call under way."""

    def __init__(self, run: CallbackManagerForLLMRun, inner: ModelCall | None, said: list[str]) -> None:
        self._run = run
        self._inner = inner
        self._said = said
        self._id = f"{LC_ID_PREFIX}-{run.run_id}"

    def text(self, piece: str) -> None:
        chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece, id=self._id))
        self._run.on_llm_new_token(piece, chunk=chunk)
        if self._inner is not None:
            self._inner.text(piece)

    def replied(self, reply: Reply) -> None:
        if self._inner is not None:
            self._inner.replied(reply)
        message = to_ai_message(reply.message)
        message.id = self._id
        self._said.append(self._id)
        message.usage_metadata = usage(reply.prompt_tokens, reply.completion_tokens)
        message.response_metadata = {"finish_reason": reply.finish_reason.value}
        self._run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))


def _inputs(arguments: str) -> dict[str, Any]:
    try:
        read = json.loads(arguments)
    except ValueError:
        read = None
    return read if isinstance(read, dict) else {"arguments": arguments}

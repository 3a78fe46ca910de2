"""Trace conversations by OpenTelemetry's GenAI conventions: invoke_agent, chat, execute_tool.

Names of spans, attributes and metrics are those of ``opentelemetry-util-genai``. What was said is
captured only if ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` asks for it; otherwise not
even the text of an error is, for it may quote a message.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from grpo_host.agents.tracing import SERVED, ModelCall, Talk, current_trajectory
from grpo_host.backends.wrapper import innermost
from grpo_host.telemetry import content, providers
from grpo_host.telemetry.metered import MeteredCalls
from grpo_sdk.backend import Backend, Sampling
from grpo_sdk.messages import Message, ToolCall, ToolSchema
from grpo_sdk.tools import MALFORMED_CALL
from grpo_sdk.trajectory import ToolRun

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from opentelemetry.util.genai.invocation import GenAIInvocation, InferenceInvocation
    from opentelemetry.util.genai.types import Error

    from grpo_host.agents.reply import Reply

SCOPE = "grpo_host.agent"

UNKNOWN_TOOL = "unknown"
"""The name for a tool that the model made up: its own would be a span's name, and a series of a metric."""

_RAISED = re.compile(r"([A-Za-z_]\w*): ")
"""How a toolbox reports an exception of a tool: its type and text."""


class AgentInstruments:
    """Instruments that speak OpenTelemetry. See ``grpo_host.agents.tracing``."""

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> None:
        from opentelemetry.util.genai.completion_hook import load_completion_hook
        from opentelemetry.util.genai.handler import TelemetryHandler

        self._tracers = tracer_provider or providers.tracer_provider()
        self._handler = TelemetryHandler(
            tracer_provider=self._tracers,
            meter_provider=meter_provider or providers.meter_provider(),
            logger_provider=logger_provider or providers.logger_provider(),
            completion_hook=load_completion_hook(),
            instrumentation_scope_name=SCOPE,
            instrumentation_scope_version=metadata.version("grpo-agent-framework"),
        )
        self._captures = self._handler.should_capture_content()
        self._metered = None if self._captures else MeteredCalls.of(self._handler)

    @contextmanager
    def invocation(self, conversation: Talk, new: Sequence[Message]) -> Iterator[Callable[[Message], None]]:
        """The span ``invoke_agent {agent}``, an agent that has no name being called as its strategy."""
        before = len(conversation.turns)
        span = self._handler.invoke_local_agent(
            agent_name=_agent_name(conversation),
            request_model=conversation.backend.model.name,
            conversation_id=conversation.id,
        )
        span.attributes.update(_context_attributes())
        if self._captures:
            span.system_instruction = content.instructions(conversation.messages)
            span.input_messages = content.inputs(new)

        def answered(message: Message) -> None:
            if self._captures:
                span.output_messages = content.outputs(message)

        with self._ending(span):
            try:
                yield answered
            finally:
                turns = conversation.turns[before:]
                span.input_tokens = sum(turn.prompt_tokens for turn in turns)
                span.output_tokens = sum(turn.completion_tokens for turn in turns)

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
        """The span ``chat {model}``."""
        address, port = _server(backend)
        # A call to a server may be watched by its client too, which the span keeps from counting it again.
        if self._metered is not None and address is None and providers.nobody_traces(self._tracers):
            with self._metered.call(provider_name(backend), backend.model.name, error_type) as call:
                yield call
            return
        span = self._handler.inference(
            provider_name(backend),
            request_model=backend.model.name,
            server_address=address,
            server_port=port,
            conversation_id=conversation_id,
        )
        span.attributes.update(_context_attributes())
        if (served := SERVED.get()) is not None:
            span.attributes["gen_ai.agent.name"] = served.agent
            span.response_id = served.response_id
        span.max_tokens = sampling.max_tokens
        span.temperature = sampling.temperature
        span.top_p = sampling.top_p if sampling.top_p < 1 else None
        span.top_k = sampling.top_k or None
        span.stop_sequences = sampling.stop or None
        span.seed = sampling.seed
        if self._captures:
            span.system_instruction = content.instructions(messages)
            span.input_messages = content.inputs(messages)
            span.tool_definitions = content.definitions(tools)
        with self._ending(span):
            yield _ModelCall(span, backend.model.name, self._captures)

    @contextmanager
    def tool_call(self, conversation: Talk, call: ToolCall) -> Iterator[Callable[[Message, ToolRun], None]]:
        """The span ``execute_tool {tool}``. What a tool answers to a wrong call is its failure."""
        name = call["function"]["name"]
        known = conversation.has_tool(name) or name == MALFORMED_CALL
        span = self._handler.tool(
            name if known else UNKNOWN_TOOL,
            tool_type="function",
            agent_name=_agent_name(conversation),
        )
        span.attributes.update(_context_attributes())
        span.tool_call_id = call["id"]
        if self._captures:
            span.arguments = call["function"]["arguments"]

        def answered(message: Message, record: ToolRun) -> None:
            if self._captures:
                span.tool_result = message["content"]
            if record.error is not None:
                span.fail(self._error(_tool_error(record.error), record.error))

        with self._ending(span):
            yield answered

    @contextmanager
    def _ending(self, span: GenAIInvocation) -> Iterator[None]:
        try:
            yield
        except BaseException as problem:
            span.fail(self._error(error_type(problem), str(problem)))
            raise
        span.stop()  # does nothing if it has failed already

    def _error(self, type: str, text: str) -> Error:
        from opentelemetry.util.genai.types import Error

        return Error(text if self._captures else None, type)


def instruments() -> AgentInstruments | None:
    """Instruments for conversations in any program; None if neither spans nor metrics go anywhere yet.

    Cheap enough to ask for each conversation, so that providers may be set at any time.
    """
    return _instruments() if providers.wanted() else None


@cache
def _instruments() -> AgentInstruments:
    return AgentInstruments()


class _ModelCall:
    """A chat span under way."""

    def __init__(self, span: InferenceInvocation, model: str, captures: bool) -> None:
        self._span, self._model, self._captures = span, model, captures

    def text(self, piece: str) -> None:
        self._span.record_stream_chunk()

    def replied(self, reply: Reply) -> None:
        self._span.finish_reasons = [content.finish_reason(reply.finish_reason)]
        self._span.response_model_name = self._model
        self._span.input_tokens = reply.prompt_tokens
        self._span.output_tokens = reply.completion_tokens
        if self._captures:
            self._span.output_messages = content.outputs(reply.message)


def _agent_name(conversation: Talk) -> str:
    served = SERVED.get()
    return conversation.agent_name if served is None else served.agent


def _context_attributes() -> dict[str, str]:
    """The trajectory that keeps it; for whom a server answers, and with which trained weights."""
    known = {"grpo.trajectory": current_trajectory()}
    if (served := SERVED.get()) is not None:
        known |= {"grpo.owner": served.owner, "grpo.run": served.run, "grpo.adapter": served.adapter}
    return {name: value for name, value in known.items() if value}


def provider_name(backend: Backend) -> str:
    """The ``gen_ai.provider.name``: a backend's ``provider``, else the name of its class."""
    inner = innermost(backend)
    named: str | None = getattr(inner, "provider", None)
    return named or type(inner).__name__.removesuffix("Backend").lower()


def _server(backend: Backend) -> tuple[str | None, int | None]:
    """Host and port of a backend that calls a server, without parts of the address that may hold a secret."""
    url = getattr(innermost(backend), "base_url", None)
    if not isinstance(url, str):
        return None, None
    parts = urlsplit(url)
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def error_type(problem: BaseException) -> str:
    """Its type's name; no text, which may quote a message."""
    if isinstance(problem, asyncio.CancelledError):
        return "cancelled"
    kind = type(problem)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _tool_error(text: str) -> str:
    raised = _RAISED.match(text)
    return raised[1] if raised else "tool_error"

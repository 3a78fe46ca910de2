"""Put messages into the form in which telemetry captures them, if it is asked to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpo_sdk.backend import FinishReason
from grpo_sdk.messages import Message, ToolSchema

if TYPE_CHECKING:
    from opentelemetry.util.genai.types import (
        FunctionToolDefinition,
        InputMessage,
        MessagePart,
        OutputMessage,
        TextPart,
    )


def instructions(messages: Sequence[Message]) -> list[TextPart]:
    """The system prompt at the head of ``messages``."""
    from opentelemetry.util.genai.types import TextPart

    if not messages or messages[0]["role"] != "system":
        return []
    return [TextPart(messages[0]["content"])]


def inputs(messages: Sequence[Message]) -> list[InputMessage]:
    """The input of the model, except for the system prompt."""
    from opentelemetry.util.genai.types import InputMessage

    return [InputMessage(m["role"], _parts(m)) for m in messages if m["role"] != "system"]


def outputs(message: Message) -> list[OutputMessage]:
    """The output of the model."""
    from opentelemetry.util.genai.types import OutputMessage

    return [OutputMessage(message["role"], _parts(message))]


def definitions(tools: Sequence[ToolSchema]) -> list[FunctionToolDefinition] | None:
    """The tools that the model is shown."""
    from opentelemetry.util.genai.types import FunctionToolDefinition

    functions = [tool["function"] for tool in tools]
    return [
        FunctionToolDefinition(f["name"], f.get("description"), f.get("parameters")) for f in functions
    ] or None


def finish_reason(reason: FinishReason) -> str:
    """Our finish reason, in the convention's words."""
    return "tool_call" if reason == FinishReason.TOOL_CALLS else reason.value


def _parts(message: Message) -> list[MessagePart]:
    from opentelemetry.util.genai.types import TextPart, ToolCallRequestPart, ToolCallResponsePart
    from opentelemetry.util.genai.utils import tool_arguments_to_any_value

    if message["role"] == "tool":
        return [ToolCallResponsePart(message["content"], message.get("tool_call_id"))]
    parts: list[MessagePart] = [TextPart(message["content"])] if message["content"] else []
    for call in message.get("tool_calls", []):
        arguments = tool_arguments_to_any_value(call["function"]["arguments"])
        parts.append(ToolCallRequestPart(arguments, call["function"]["name"], call["id"]))
    return parts

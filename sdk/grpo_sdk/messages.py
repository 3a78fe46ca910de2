"""Chat messages: OpenAI-style dicts, the form that chat templates, vLLM, LiteLLM and TRL share."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

Role = Literal["system", "user", "assistant", "tool"]


class FunctionCall(TypedDict):
    """The function part of a tool call."""

    name: str
    arguments: str
    """The arguments as a JSON text, exactly as the model wrote them."""


class ToolCall(TypedDict):
    """One call of a tool that an assistant message asks for."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(TypedDict):
    """One message of a conversation."""

    role: Role
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]


class ToolSchema(TypedDict):
    """A tool as a model sees it: the OpenAI function schema."""

    type: Literal["function"]
    function: dict[str, Any]


def system(content: str) -> Message:
    """A system message."""
    return {"role": "system", "content": content}


def user(content: str) -> Message:
    """A user message."""
    return {"role": "user", "content": content}


def assistant(content: str, tool_calls: list[ToolCall] | None = None) -> Message:
    """An assistant message, with the tools that it calls."""
    message: Message = {"role": "assistant", "content": content}
    if tool_calls:
        message["tool_calls"] = tool_calls
    return message


def tool_result(call: ToolCall, content: str) -> Message:
    """The tool message that answers ``call``."""
    return {
        "role": "tool",
        "content": content,
        "name": call["function"]["name"],
        "tool_call_id": call["id"],
    }


def tool_call(name: str, arguments: str, call_id: str) -> ToolCall:
    """A tool call; ``arguments`` is a JSON text."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}

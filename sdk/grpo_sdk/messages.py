"""Chat messages: OpenAI-style dicts, the form that chat templates, vLLM, LiteLLM and TRL share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, cast

from typing_extensions import TypedDict

Role = Literal["system", "user", "assistant", "tool"]


class FunctionCall(TypedDict):
    """The function part of a tool call."""

    name: str
    """The tool's name."""
    arguments: str
    """The arguments as a JSON text, exactly as the model wrote them."""


class ToolCall(TypedDict):
    """One call of a tool that an assistant message asks for."""

    id: str
    """Unique in the conversation."""
    type: Literal["function"]
    """Always ``function``."""
    function: FunctionCall
    """Name of the tool, and arguments as a JSON text."""


class Message(TypedDict):
    """One message of a conversation."""

    role: Role
    """Who speaks."""
    content: str
    """The text; empty if an assistant only calls tools."""
    name: NotRequired[str]
    """Of a tool message: the tool's name."""
    tool_calls: NotRequired[list[ToolCall]]
    """Of an assistant message: the tools that it calls, at least one."""
    tool_call_id: NotRequired[str]
    """Of a tool message: ``id`` of the call that it answers."""


class ToolSchema(TypedDict):
    """A tool as a model sees it: the OpenAI function schema."""

    type: Literal["function"]
    """Always ``function``."""
    function: dict[str, Any]
    """``name``, ``description`` and ``parameters``, a JSON schema of an object."""


def whole_text(text: str) -> str:
    """Replace each lone surrogate in ``text``, which no tokenizer, JSON or UTF-8 accepts, by U+FFFD.

    File names that are not UTF-8 bring them (``os.fsdecode``), and JSON that was cut in an emoji.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def system(content: str) -> Message:
    """A system message."""
    return {"role": "system", "content": whole_text(content)}


def user(content: str) -> Message:
    """A user message."""
    return {"role": "user", "content": whole_text(content)}


def assistant(content: str, tool_calls: list[ToolCall] | None = None) -> Message:
    """An assistant message, with the tools that it calls."""
    message: Message = {"role": "assistant", "content": whole_text(content)}
    if tool_calls:
        message["tool_calls"] = tool_calls
    return message


def tool_result(call: ToolCall, content: str) -> Message:
    """The tool message that answers ``call``."""
    return {
        "role": "tool",
        "content": whole_text(content),
        "name": call["function"]["name"],
        "tool_call_id": call["id"],
    }


def tool_call(name: str, arguments: str, call_id: str) -> ToolCall:
    """A tool call; ``arguments`` is a JSON text."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def as_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Copy ``messages`` from elsewhere; each copy has a known role and its content as a text.

    Content that is None (an assistant that only calls tools) becomes an empty text, and what is no
    character in a text U+FFFD. Raises
    ``ValueError`` that names the first message that is none.
    """
    if isinstance(messages, str | Mapping):
        raise ValueError(f"messages are a list of dicts with role and content, not {messages!r:.80}")
    return [_as_message(index, message) for index, message in enumerate(messages)]


def _as_message(index: int, message: Any) -> Message:
    where = f"message {index}"
    if not isinstance(message, Mapping):
        raise ValueError(f"{where} is {message!r:.80}, not a dict with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "user", "assistant", "tool"):
        raise ValueError(f"{where} has the role {role!r:.40}; roles are system, user, assistant and tool")
    if content is None and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise ValueError(f"{where} has the content {content!r:.80}, which is no text")
    return cast("Message", {**message, "role": role, "content": whole_text(content)})

"""LangChain's messages as ours, and ours as LangChain's.

``to_messages`` gives back what ``to_ai_message`` was given, word for word: a history that an app sends again
is the one that the model wrote.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages import ToolCall as LangChainToolCall
from langchain_core.messages.ai import UsageMetadata

from grpo_sdk.errors import ConfigError
from grpo_sdk.messages import (
    ContentPart,
    Message,
    Role,
    ToolCall,
    assistant,
    content_of,
    image_part,
    system,
    text_part,
    tool_call,
    user,
    whole_text,
)

ARGUMENTS = "sampled_arguments"
"""In ``additional_kwargs``: call id → the arguments as the model wrote them, where not as ``json.dumps``."""

_TEXTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "text-plain": "text",
    "refusal": "refusal",
}
_CALLS = {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call"}
"""Of an assistant's content: what its ``tool_calls`` say too."""
_THOUGHTS = {"reasoning", "reasoning_content", "thinking", "redacted_thinking"}
"""Of an assistant's content: another model's, which no chat template shows again."""
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def to_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """``messages`` as agents have them.

    Raises ``ConfigError`` that names the first message that holds something else than text, tool calls and,
    if a person says it, images and files.
    """
    names: dict[str, str] = {}
    return [_to_message(index, message, names) for index, message in enumerate(messages)]


def from_messages(messages: Sequence[Message]) -> list[BaseMessage]:
    """``messages`` of agents as LangChain's."""
    return [_from_message(message) for message in messages]


def to_ai_message(message: Message) -> AIMessage:
    """What the model said; a call whose arguments are no JSON object is among its ``invalid_tool_calls``."""
    calls: list[LangChainToolCall] = []
    invalid: list[InvalidToolCall] = []
    written: dict[str, str] = {}
    for call in message.get("tool_calls", ()):
        id, name, text = call["id"], call["function"]["name"], call["function"]["arguments"]
        try:
            arguments = json.loads(text) if text.strip() else {}
            if not isinstance(arguments, dict):
                raise ValueError("they are no JSON object")
        except ValueError as problem:
            error = f"the arguments of {name} cannot be read: {problem}"
            invalid.append(
                InvalidToolCall(type="invalid_tool_call", id=id, name=name, args=text, error=error)
            )
            continue
        calls.append(LangChainToolCall(type="tool_call", id=id, name=name, args=arguments))
        if text != _dumped(arguments):
            written[id] = text
    return AIMessage(
        content=message["content"],
        tool_calls=calls,
        invalid_tool_calls=invalid,
        additional_kwargs={ARGUMENTS: written} if written else {},
    )


def usage(prompt: int, completion: int) -> UsageMetadata | None:
    """None if the backend counts no tokens."""
    if not prompt and not completion:
        return None
    return UsageMetadata(input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion)


def _from_message(message: Message) -> BaseMessage:
    content, name = message["content"], message.get("name")
    match message["role"]:
        case "assistant":
            return to_ai_message(message)
        case "tool":
            return ToolMessage(content, name=name, tool_call_id=message.get("tool_call_id", ""))
        case "system":
            return SystemMessage(content, name=name)
        case _:
            shown: Any = content_of(message)
            return HumanMessage(shown, name=name)


def _to_message(index: int, message: BaseMessage, names: dict[str, str]) -> Message:
    where = f"message {index} ({message.type})"
    if isinstance(message, AIMessage):
        calls = _calls(message)
        names.update({call["id"]: call["function"]["name"] for call in calls})
        said = assistant(_text(message, where, skipped=_CALLS | _THOUGHTS), calls)
        return _named(said, message.name)
    if isinstance(message, HumanMessage) and isinstance(message.content, list):
        return _named(user([_as_part(part, where) for part in message.content]), message.name)
    text = _text(message, where)
    if isinstance(message, ToolMessage):
        name = message.name or names.get(message.tool_call_id, "tool")
        return {"role": "tool", "content": text, "name": name, "tool_call_id": message.tool_call_id}
    if isinstance(message, SystemMessage):
        return _named(system(text), message.name)
    if isinstance(message, HumanMessage):
        return _named(user(text), message.name)
    if isinstance(message, ChatMessage) and message.role in _ROLES:
        return _named({"role": _ROLES[message.role], "content": text}, message.name)
    role = f' with the role "{message.role}"' if isinstance(message, ChatMessage) else ""
    raise ConfigError(
        f"{where} is a {type(message).__name__}{role}, which no model here reads; give system, human, ai and "
        "tool messages"
    )


def _named(message: Message, name: str | None) -> Message:
    return {**message, "name": name} if name else message


def _text(message: BaseMessage, where: str, skipped: Collection[str] = ()) -> str:
    content: Any = message.content
    if isinstance(content, str):
        return whole_text(content)
    return whole_text("".join(_part(part, where, skipped) for part in content))


def _as_part(part: Any, where: str) -> ContentPart:
    """OpenAI's parts as they are, LangChain's standard blocks as OpenAI's, all else as text."""
    match part:
        case {"type": "image_url", "image_url": str(url)} | {"type": "image", "url": str(url)}:
            return image_part(url)
        case {"type": "image_url", "image_url": {"url": str()}}:
            return {"type": "image_url", "image_url": part["image_url"]}
        case {"type": "image", "base64": str(data), "mime_type": str(kind)}:
            return image_part(f"data:{kind};base64,{data}")
        case {"type": "file", "file": {"file_id": str()} | {"file_data": str()} as reference}:
            return {"type": "file", "file": reference}
        case {"type": "image" | "file", "file_id": str(name)}:
            return {"type": "file", "file": {"file_id": name}}
        case {"type": "file", "base64": str(data), "mime_type": str(kind)}:
            name = part.get("filename", "file")
            return {"type": "file", "file": {"file_data": f"data:{kind};base64,{data}", "filename": name}}
    return text_part(_part(part, where, ()))


def _part(part: Any, where: str, skipped: Collection[str]) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type")
    if kind in skipped:
        return ""
    text = part.get(_TEXTS[kind]) if kind in _TEXTS else None
    if isinstance(text, str):
        return text
    if kind == "json" and "json" in part:  # of a tool's answer
        return _dumped(part["json"])
    raise ConfigError(
        f'{where} has content of the type "{kind}", which no model here reads; leave it out. A person may '
        "say text, images and files, others text"
    )


def _calls(message: AIMessage) -> list[ToolCall]:
    written = message.additional_kwargs.get(ARGUMENTS)
    sampled: Mapping[str, str] = written if isinstance(written, Mapping) else {}
    calls = [
        tool_call(call["name"], _arguments(call["args"], sampled.get(call["id"] or "")), call["id"] or "")
        for call in message.tool_calls
    ]
    calls += [
        tool_call(call["name"] or "", call["args"] or "", call["id"] or "")
        for call in message.invalid_tool_calls
    ]
    return calls


def _arguments(arguments: dict[str, Any], sampled: str | None) -> str:
    """As the model wrote them, if the app has not changed them since."""
    if sampled is not None:
        try:
            if (json.loads(sampled) if sampled.strip() else {}) == arguments:
                return sampled
        except ValueError:
            pass
    return _dumped(arguments)


def _dumped(value: Any) -> str:
    return whole_text(json.dumps(value, ensure_ascii=False))

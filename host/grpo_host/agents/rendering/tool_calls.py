"""Tool calls as text, for models whose chat template knows no tools.

The Hermes form, which Qwen and many open models are trained on::

    <tool_call>{"name": "lookup_order", "arguments": {"order_id": "A12"}}</tool_call>
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from grpo_host.agents.rendering.call_scan import CallForm, scan
from grpo_host.agents.rendering.signatures import describe_tools
from grpo_sdk.messages import Message, ToolCall, ToolSchema, assistant, tool_call
from grpo_sdk.tools import MALFORMED_CALL

TEXT = CallForm("<tool_call>", "</tool_call>")

_LONGEST_NAME = 200
"""Of a tool; a longer one is a model that repeats itself."""


def render_call(call: ToolCall) -> str:
    """``call`` as the model is to write it; a malformed one as it wrote it."""
    function = call["function"]
    if function["name"] == MALFORMED_CALL:
        return function["arguments"]
    name = json.dumps(function["name"], ensure_ascii=False)
    arguments = function["arguments"].strip() or "{}"
    return f'<tool_call>{{"name": {name}, "arguments": {arguments}}}</tool_call>'


def parse_calls(text: str) -> tuple[str, list[ToolCall]]:
    """The text outside of tool calls, and the calls, which have no ids yet.

    One that is not valid JSON is kept as malformed, with all that the model wrote.
    """
    found = scan(text, TEXT, whole=True)
    return found.shown.strip(), [_parse_call(call.said, call.written) for call in found.calls]


def _parse_call(raw: str, written: str) -> ToolCall:
    try:
        return read_call(json.loads(raw), "")
    except (ValueError, TypeError, RecursionError):
        return tool_call(MALFORMED_CALL, written, "")


def read_call(written: Any, call_id: str) -> ToolCall:
    """The call that ``written`` says, a JSON value.

    Its arguments may be called parameters, as Llama does, be a JSON text, or be missing. Raises
    ``ValueError`` or ``TypeError`` where it says none.
    """
    if not isinstance(written, dict) or not isinstance(written.get("name"), str):
        raise TypeError("a call is an object with a name")
    arguments = written.get("arguments", written.get("parameters"))
    if isinstance(arguments, str):
        arguments = json.loads(arguments) if arguments.strip() else None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise TypeError("arguments are an object")
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    f"{written['name']}{text}".encode()  # JSON can write half a surrogate pair, which no text can hold
    return tool_call(written["name"], text, call_id)


def as_plain_messages(messages: Sequence[Message], tools: Sequence[ToolSchema]) -> list[dict[str, str]]:
    """``messages`` in system, user and assistant roles only: tools described, calls and results as text."""
    plain: list[dict[str, str]] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "assistant":
            content = assistant_text(message)
        elif role == "tool":
            content = f"<tool_response>{content}</tool_response>"
            if plain and plain[-1]["role"] == "tool":
                plain[-1]["content"] += f"\n{content}"
                continue
        plain.append({"role": role, "content": content})
    for item in plain:
        if item["role"] == "tool":
            item["role"] = "user"
    if tools:
        if plain and plain[0]["role"] == "system":
            plain[0]["content"] = f"{plain[0]['content']}\n{describe_tools(tools)}".lstrip()
        else:
            plain.insert(0, {"role": "system", "content": describe_tools(tools)})
    return plain


def assistant_text(message: Message) -> str:
    """All that an assistant message says, its tool calls included."""
    parts = [message["content"]] if message["content"] else []
    parts += [render_call(call) for call in message.get("tool_calls", ())]
    return "\n".join(parts)


def as_written(message: Message) -> Message:
    """``message`` for others: what is no call that could be made is text, as the model wrote it."""
    if message.get("name") == MALFORMED_CALL:  # the answer to one
        answer = message.copy()
        del answer["name"]
        return answer
    calls = message.get("tool_calls", [])
    made = [call for call in calls if _can_be_made(call)]
    if len(made) == len(calls):
        return message
    written = [render_call(call) for call in calls if call not in made]
    return assistant("\n".join(filter(None, [message["content"], *written])), made)


def _can_be_made(call: ToolCall) -> bool:
    name = call["function"]["name"]
    return bool(name) and len(name) <= _LONGEST_NAME and name != MALFORMED_CALL

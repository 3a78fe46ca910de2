"""Tool calls as text, for models whose chat template knows no tools.

The Hermes form, which Qwen and many open models are trained on::

    <tool_call>{"name": "lookup_order", "arguments": {"order_id": "A12"}}</tool_call>
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from grpo_host.rendering.call_scan import scan
from grpo_sdk.messages import Message, ToolCall, ToolSchema, tool_call
from grpo_sdk.tools import MALFORMED_CALL

OPENING, CLOSING = "<tool_call>", "</tool_call>"


def describe_tools(tools: Sequence[ToolSchema]) -> str:
    """What a system prompt says of ``tools``: short, for small models and short contexts."""
    lines = [_signature(tool["function"]) for tool in tools]
    form = '<tool_call>{"name": "...", "arguments": {...}}</tool_call>'
    return "\n".join(["Tools:", *lines, f"To use a tool, reply only with: {form}"])


def _signature(function: dict[str, Any]) -> str:
    """``lookup(order_id: string): Look up an order.``; the JSON schema where that cannot say it."""
    parameters = function.get("parameters", {})
    properties: dict[str, Any] = parameters.get("properties", {})
    simple = {"string", "integer", "number", "boolean"}
    if any(field.get("type") not in simple for field in properties.values()):
        return json.dumps(function, ensure_ascii=False)
    required = set(parameters.get("required", ()))
    arguments = ", ".join(
        f"{name}{'' if name in required else '?'}: {field['type']}" for name, field in properties.items()
    )
    return f"{function['name']}({arguments}): {function.get('description', '')}".rstrip(": ")


def render_call(call: ToolCall) -> str:
    """``call`` as the model is to write it."""
    function = call["function"]
    name = json.dumps(function["name"], ensure_ascii=False)
    arguments = function["arguments"].strip() or "{}"
    return f'<tool_call>{{"name": {name}, "arguments": {arguments}}}</tool_call>'


def parse_calls(text: str) -> tuple[str, list[ToolCall]]:
    """The text outside of tool calls, and the calls; one that is not valid JSON is kept as malformed."""
    found = scan(text, OPENING, CLOSING, whole=True)
    return found.shown.strip(), [_parse_call(raw.strip(), index) for index, raw in enumerate(found.calls)]


def _parse_call(raw: str, index: int) -> ToolCall:
    try:
        return read_call(json.loads(raw), f"call_{index}")
    except (ValueError, TypeError, RecursionError):
        return tool_call(MALFORMED_CALL, raw, f"call_{index}")


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

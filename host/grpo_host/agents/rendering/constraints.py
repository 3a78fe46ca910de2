"""What a request's ``tool_choice`` and ``json_schema`` allow a model to sample, as one grammar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from grpo_host.agents.rendering import Renderer
from grpo_host.agents.rendering.call_syntax import Format, call_syntax, sequence
from grpo_host.agents.rendering.schema_limits import check_schema, enforceable
from grpo_sdk.backend import Backend, Capability, Sampling, Tokenizer
from grpo_sdk.errors import CapabilityError, ConfigError, did_you_mean
from grpo_sdk.messages import Message, ToolSchema
from grpo_sdk.schemas import object_schema


def check_constraints(backend: Backend, sampling: Sampling, tools: Sequence[ToolSchema]) -> None:
    """Raise ``CapabilityError`` or ``ConfigError`` if ``backend`` cannot answer as ``sampling`` says."""
    if not sampling.constrained:
        return
    choice, names = sampling.tool_choice, [tool["function"]["name"] for tool in tools]
    if choice == "required" and not names:
        raise ConfigError('tool_choice is "required", and no tool is offered')
    if choice not in ("auto", "none", "required", *names):
        raise ConfigError(
            f'tool_choice names the tool "{choice}", which is not offered.{did_you_mean(choice, names)} '
            f"Offered are: {', '.join(names) or 'none'}"
        )
    if Capability.STRUCTURED not in backend.capabilities:
        asked = "a grammar" if sampling.grammar else f"tool_choice {json.dumps(choice)}"
        asked = "json_schema" if sampling.json_schema is not None else asked
        raise CapabilityError(
            f"{asked} needs a backend with the capability structured, which {type(backend).__name__} has "
            f"not; it can: {', '.join(sorted(backend.capabilities))}"
        )
    if sampling.json_schema is not None and Capability.TOKEN_IDS in backend.capabilities:
        check_schema(sampling.json_schema)  # others enforce it themselves


def check_parts(backend: Backend, messages: Sequence[Message], start: int = 0) -> None:
    """Raise ``CapabilityError`` if a message is more than text and ``backend`` reads text alone.

    Messages before ``start`` were checked earlier.
    """
    if Capability.PARTS in backend.capabilities:
        return
    for index, message in enumerate(messages[start:], start):
        parts = message.get("parts")
        if parts and (other := [part["type"] for part in parts if part["type"] != "text"]):
            raise CapabilityError(
                f"messages[{index}] has a part of the type {other[0]}, and {type(backend).__name__} reads "
                "text alone; leave it out, or take a backend with the capability parts: openai, litellm or "
                "langchain, with a model that can see"
            )


def make_grammar(
    sampling: Sampling, tools: Sequence[ToolSchema], renderer: Renderer, tokenizer: Tokenizer
) -> str | None:
    """The structural tag of what ``sampling`` allows; None if that is everything.

    Raises ``CapabilityError`` if the model's format of tool calls cannot be constrained.
    """
    if sampling.grammar is not None:
        return sampling.grammar
    allowed = _allowed(sampling, tools, renderer, tokenizer)
    return None if allowed is None else json.dumps({"type": "structural_tag", "format": allowed})


def _allowed(
    sampling: Sampling, tools: Sequence[ToolSchema], renderer: Renderer, tokenizer: Tokenizer
) -> Format | None:
    choice, schema = sampling.tool_choice, sampling.json_schema
    most = None if sampling.parallel_tool_calls else 1
    if choice not in ("auto", "none"):
        chosen = [tool for tool in tools if choice in ("required", tool["function"]["name"])]
        syntax = call_syntax(renderer, tokenizer)
        return syntax.calls(_arguments(chosen), most=most if choice == "required" else 1)
    if schema is not None:
        answer = _json(schema or {"type": "object"})
        if choice == "none" or not tools:
            return answer
        calls = call_syntax(renderer, tokenizer).calls(_arguments(tools), most=most)
        return {"type": "or", "elements": [calls, answer]}
    if choice == "auto" and (not tools or most is None):
        return None
    return _text(tools, renderer, tokenizer, calls=choice == "auto")


def _text(
    tools: Sequence[ToolSchema], renderer: Renderer, tokenizer: Tokenizer, *, calls: bool
) -> Format | None:
    """A text without calls, or with one behind it; None if the model's format has no mark of a call."""
    try:
        syntax = call_syntax(renderer, tokenizer)
    except CapabilityError:
        return None  # the session does without
    if not syntax.opening:
        return None
    text = {"type": "any_text", "excludes": [syntax.opening]}
    if not calls:
        return text
    return sequence([text, {"type": "optional", "content": syntax.calls(_arguments(tools), most=1)}])


def _arguments(tools: Sequence[ToolSchema]) -> dict[str, Format]:
    functions = [tool["function"] for tool in tools]
    return {function["name"]: _json(object_schema(function.get("parameters"))) for function in functions}


def _json(schema: dict[str, Any]) -> Format:
    """JSON of ``schema``. Between its parts is at most one blank, or a small model may write nothing else."""
    return {"type": "json_schema", "json_schema": enforceable(schema), "max_whitespace_cnt": 1}

"""Translate the options of a chat model call, LangChain's or OpenAI's, to fields of ``Sampling``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from grpo_host.langchain.source import Overrides
from grpo_sdk.backend import Capability
from grpo_sdk.errors import CapabilityError, ConfigError, did_you_mean
from grpo_sdk.messages import ToolSchema
from grpo_sdk.schemas import object_schema
from grpo_sdk.tools import tool_schema

LangChainTool: TypeAlias = "Mapping[str, Any] | type | Callable[..., Any] | BaseTool"

_FIELDS = ("max_tokens", "temperature", "top_p", "top_k", "seed", "parallel_tool_calls")
_OTHER_NAMES = {"max_completion_tokens": "max_tokens"}
_KNOWN = (*_FIELDS, *_OTHER_NAMES, "stop", "tools", "tool_choice", "response_format")
_MEANINGLESS = {"stream", "stream_usage", "stream_options", "strict", "ls_structured_output_format"}
"""They change nothing of the answer: it is counted and constrained in any case."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of one call."""

    tools: Sequence[ToolSchema]
    overrides: Overrides


def asked(kwargs: Mapping[str, Any], stop: Sequence[str] | None, can: frozenset[Capability]) -> Asked:
    """What ``kwargs`` of a call and its ``stop`` ask for; None asks for nothing.

    Raises ``ConfigError`` for what it does not know, ``CapabilityError`` for what the backend cannot do.
    """
    said = {_OTHER_NAMES.get(key, key): value for key, value in kwargs.items() if value is not None}
    for key in said:
        if key not in _KNOWN and key not in _MEANINGLESS:
            raise ConfigError(f'ChatGrpo knows no "{key}".{did_you_mean(key, list(_KNOWN))}')
    overrides = {key: said[key] for key in _FIELDS if key in said}
    stops = stop if stop is not None else said.get("stop")
    if stops is not None:
        overrides["stop"] = (stops,) if isinstance(stops, str) else tuple(stops)
    if "seed" in overrides and Capability.SEED not in can:
        raise CapabilityError("the backend repeats no samples (it has no seed); leave out seed")
    tools = said.get("tools") or ()
    choice = tool_choice(said.get("tool_choice"), tools)
    if choice not in ("auto", "none"):
        _need_structured(can, f'tool_choice "{choice}"')
    if choice != "auto":
        overrides["tool_choice"] = choice
    if tools and not {Capability.TOOLS, Capability.TOKEN_IDS} & can:
        raise CapabilityError("the backend takes no tools")
    schema = response_schema(said.get("response_format"))
    if schema is not None:
        _need_structured(can, "a schema of the answer")
        overrides["json_schema"] = schema
    return Asked(tools, overrides)


def _need_structured(can: frozenset[Capability], what: str) -> None:
    if Capability.STRUCTURED not in can:
        raise CapabilityError(f"{what} needs a backend with the capability structured")


def tool_schemas(tools: Sequence[LangChainTool]) -> list[ToolSchema]:
    """``tools`` of any form that LangChain takes. Raises ``ConfigError`` for a provider's own tool."""
    return [_tool_schema(tool) for tool in tools]


def _tool_schema(tool: LangChainTool) -> ToolSchema:
    if isinstance(tool, BaseTool):
        return tool_schema(tool)
    made = convert_to_openai_tool(cast("dict[str, Any]", tool))
    if made.get("type") != "function" or "function" not in made:
        raise ConfigError(f'a tool of the type "{made.get("type")}" runs at a provider; give functions only')
    function = {key: value for key, value in made["function"].items() if key != "strict"}
    function["parameters"] = object_schema(function.get("parameters"))
    return {"type": "function", "function": function}


def tool_choice(said: Any, tools: Sequence[ToolSchema]) -> str:
    """``auto``, ``none``, ``required`` or the name of one of ``tools``.

    Raises ``ConfigError`` if it names none of them.
    """
    if isinstance(said, Mapping):
        function = said.get("function")
        said = function.get("name") if isinstance(function, Mapping) else said.get("name", said.get("type"))
    choice = {None: "auto", False: "none", True: "required", "any": "required"}.get(said, said)
    if choice in ("auto", "none"):
        return str(choice)
    names = [tool["function"]["name"] for tool in tools]
    if not names or (choice != "required" and choice not in names):
        raise ConfigError(
            f'tool_choice "{choice}" is none of the tools: {", ".join(names) or "there are none"}'
        )
    return str(choice)


def response_schema(said: Any) -> dict[str, Any] | None:
    """The JSON schema of OpenAI's ``response_format``, or None if it asks for plain text."""
    if said is None or (isinstance(said, Mapping) and said.get("type") == "text"):
        return None
    if isinstance(said, Mapping) and said.get("type") == "json_object":
        return {}
    if isinstance(said, Mapping) and said.get("type") == "json_schema":
        schema = said.get("json_schema", {}).get("schema")
        if isinstance(schema, Mapping):
            return dict(schema)
    raise ConfigError(f"response_format is text, json_object or json_schema with a schema, not {said!r:.120}")

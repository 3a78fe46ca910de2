"""Say in OpenAI's words which tool has to be called, and which schema an answer keeps to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo_sdk import Sampling, ToolSchema


def constraints(sampling: Sampling, tools: Sequence[ToolSchema]) -> dict[str, Any]:
    """The fields of a request; none for what is the default everywhere."""
    fields: dict[str, Any] = {}
    choice, schema = sampling.tool_choice, sampling.json_schema
    if tools and choice in ("none", "required"):
        fields["tool_choice"] = choice
    elif tools and choice != "auto":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice}}
    if tools and not sampling.parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    if schema:
        wanted = {"name": "answer", "schema": schema, "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": wanted}
    elif schema is not None:
        fields["response_format"] = {"type": "json_object"}
    return fields

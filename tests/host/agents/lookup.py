"""A tool, and a call of it as a model writes it."""

from __future__ import annotations

from grpo_sdk.tools import as_tool, tool_schema


def lookup(order: str) -> str:
    """Look up an order."""
    return order


TOOLS = [tool_schema(as_tool(lookup))]
CALL = '<tool_call>{"name": "lookup", "arguments": {"order": "A12"}}</tool_call>'

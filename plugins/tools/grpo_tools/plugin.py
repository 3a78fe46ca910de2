"""The built-in tools, as a plugin."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_sdk.hooks import ToolFactory, hookimpl
from grpo_tools.calculator import calculator_tool
from grpo_tools.knowledge_base import knowledge_base_tool
from grpo_tools.mcp_servers import mcp_tools
from grpo_tools.python_code import python_tool


@hookimpl
def grpo_tools() -> Mapping[str, ToolFactory]:
    return {
        "calculator": calculator_tool,
        "knowledge_base": knowledge_base_tool,
        "mcp": mcp_tools,
        "python": python_tool,
    }

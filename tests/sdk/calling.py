"""Calls of tools, as tests make them."""

from __future__ import annotations

import json
from typing import Any

from grpo_sdk import tool_call
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import ToolLimits


async def call(tools: Any, *calls: tuple[str, Any], limits: ToolLimits | None = None):
    asked = [
        tool_call(name, arguments if isinstance(arguments, str) else json.dumps(arguments), f"call_{number}")
        for number, (name, arguments) in enumerate(calls)
    ]
    return await Toolbox(tools, limits).run(asked)


async def one(tools: Any, name: str, arguments: Any, limits: ToolLimits | None = None):
    [(message, run)] = await call(tools, (name, arguments), limits=limits)
    return message["content"], run

"""Chats on a scripted backend, and what the model was shown in them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from grpo_host.agents.agent import Agent
from grpo_host.chat.agent import ChatAgent
from grpo_sdk.testing import ScriptedBackend


class Chat:
    """``say`` something, and see what the model was ``shown`` for it."""

    def __init__(self, script: Any = None, **options: Any) -> None:
        self.shown: list[list[dict[str, Any]]] = []
        self.offered: list[list[str]] = []
        self.script = script or (lambda messages, tools: f"to {messages[-1]['content']}")
        options.setdefault("model", Agent(ScriptedBackend(script=self._script)))
        self.agent = ChatAgent(**options)
        self.id = asyncio.run(self.agent.start_conversation()).conversation_id

    def _script(self, messages: Any, tools: Any) -> Any:
        self.shown.append(list(messages))
        self.offered.append([tool["function"]["name"] for tool in tools])
        return self.script(messages, tools)

    def say(self, message: str, **options: Any) -> str:
        return asyncio.run(self.agent.respond(self.id, message, **options))

    def stream(self, message: str, **options: Any) -> list[str]:
        async def gather() -> list[str]:
            return [piece async for piece in self.agent.stream(self.id, message, **options)]

        return asyncio.run(gather())

    @property
    def system(self) -> str:
        """The last system message."""
        first = self.shown[-1][0]
        return first["content"] if first["role"] == "system" else ""

    @property
    def history(self) -> list[dict[str, Any]]:
        return asyncio.run(self.agent.history(self.id))


@pytest.fixture(scope="session")
def chat() -> type[Chat]:
    return Chat

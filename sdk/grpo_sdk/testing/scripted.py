"""A backend that answers from a script: for tests of everything that uses a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from grpo_sdk.backend import Backend, Capability, ChatReply, FinishReason, ModelSpec, Sampling
from grpo_sdk.messages import Message, ToolSchema, assistant

Script = Callable[[Sequence[Message], Sequence[ToolSchema]], "Message | str"]
"""From the conversation and the tools offered to the next assistant message."""


class ScriptedBackend(Backend):
    """Gives the next of ``replies``, counted by the answers in the conversation so far, or asks ``script``.

    The last of ``replies`` is repeated. ``latency`` is in seconds per call.
    """

    capabilities = frozenset({Capability.CHAT, Capability.TOOLS, Capability.STREAMING, Capability.SEED})

    def __init__(
        self,
        model: ModelSpec | None = None,
        *,
        replies: Sequence[Message | str] = ("Hello! How can I help you?",),
        script: Script | None = None,
        latency: float = 0.0,
    ) -> None:
        super().__init__(model or ModelSpec("scripted"))
        if script is None and not replies:
            raise ValueError("a scripted backend needs at least one reply, or a script")
        self.replies = list(replies)
        self.script = script
        self.latency = latency
        self.calls = 0

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        self.calls += 1
        if self.latency:
            await asyncio.sleep(self.latency)
        if self.script is not None:
            said = self.script(messages, tools)
        else:
            turn = sum(message["role"] == "assistant" for message in messages)
            said = self.replies[min(turn, len(self.replies) - 1)]
        message = assistant(said) if isinstance(said, str) else said
        finish = FinishReason.TOOL_CALLS if message.get("tool_calls") else FinishReason.STOP
        return ChatReply(message, finish, completion_tokens=len(message["content"].split()))

    async def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncIterator[str | ChatReply]:
        reply = await self.chat(messages, sampling, tools)
        first, *rest = reply.message["content"].split(" ")
        for word in [first, *(f" {word}" for word in rest)]:
            yield word
        yield reply

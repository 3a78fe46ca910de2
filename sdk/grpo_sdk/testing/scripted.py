"""A backend that answers from a script: for tests of everything that uses a model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence

from grpo_sdk.backend import Backend, Capability, ChatReply, FinishReason, ModelSpec, Sampling
from grpo_sdk.messages import Message, ToolSchema, assistant

Script = Callable[[Sequence[Message], Sequence[ToolSchema]], "Message | str"]
"""From the conversation and the tools offered to the next assistant message."""


class ScriptedBackend(Backend):
    """Gives the next of ``replies``, counted by the answers in the conversation so far, or asks ``script``.

    The last of ``replies`` is repeated. ``latency`` is in seconds per call. ``structured`` announces
    STRUCTURED: a reply that is not as it was asked for is then a ``ValueError``.
    """

    capabilities = frozenset({Capability.CHAT, Capability.TOOLS, Capability.STREAMING, Capability.SEED})

    def __init__(
        self,
        model: ModelSpec | None = None,
        *,
        replies: Sequence[Message | str] = ("Hello! How can I help you?",),
        script: Script | None = None,
        latency: float = 0.0,
        structured: bool = False,
    ) -> None:
        super().__init__(model or ModelSpec("scripted"))
        if script is None and not replies:
            raise ValueError("a scripted backend needs at least one reply, or a script")
        self.replies = list(replies)
        self.script = script
        self.latency = latency
        self.calls = 0
        if structured:
            self.capabilities = self.capabilities | {Capability.STRUCTURED}

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
        if Capability.STRUCTURED in self.capabilities:
            _check(message, sampling)
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


def _check(message: Message, sampling: Sampling) -> None:
    """Raise ``ValueError`` if the script answers otherwise than ``sampling`` lets it."""
    called = [call["function"]["name"] for call in message.get("tool_calls", ())]
    choice = sampling.tool_choice
    if choice != "auto" and not (
        bool(called) if choice == "required" else set(called) == {choice} - {"none"}
    ):
        raise ValueError(f"the script calls {called}, and tool_choice is {choice!r}")
    if len(called) > 1 and not sampling.parallel_tool_calls:
        raise ValueError(f"the script calls {called}, and parallel_tool_calls is False")
    if sampling.json_schema is not None and not called:
        try:
            json.loads(message["content"])
        except ValueError:
            raise ValueError(f"the script says {message['content']!r:.80}, which is no JSON") from None

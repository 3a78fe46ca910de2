"""An answer of ``/v1/chat/completions``, whole and in pieces."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from grpo_host.openai_protocol.completions import (
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ChunkChoice,
    MessageOut,
    Usage,
)


def sent_event(data: bytes) -> bytes:
    """A server-sent event."""
    return b"data: %b\n\n" % data


DONE = sent_event(b"[DONE]")
"""The last event of a stream."""


@dataclass(slots=True)
class CompletionWriter:
    """The answer to one request: whole, or in pieces that go out as server-sent events."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""
    opened: set[int] = field(default_factory=set)
    """The choices that have had a piece."""

    def whole(self, choices: list[Choice], usage: Usage) -> ChatCompletion:
        return ChatCompletion(
            id=self.id, created=self.created, model=self.model, choices=choices, usage=usage
        )

    def piece(self, index: int, delta: dict[str, Any], **rest: Any) -> bytes:
        """More of the choice ``index``; its first piece also says whose it is."""
        if index not in self.opened:
            self.opened.add(index)
            delta = {"role": "assistant", "content": "", **delta}
        return self._event([ChunkChoice(index=index, delta=delta, **rest)])

    def used(self, usage: Usage) -> bytes:
        """What the answer took."""
        return self._event([], usage)

    def _event(self, choices: list[ChunkChoice], usage: Usage | None = None) -> bytes:
        chunk = ChatCompletionChunk(
            id=self.id, created=self.created, model=self.model, choices=choices, usage=usage
        )
        return sent_event(chunk.model_dump_json(exclude_none=True).encode())


def last_delta(message: MessageOut) -> dict[str, Any]:
    """What of ``message`` was not streamed as text."""
    delta: dict[str, Any] = {}
    # OpenAI's client puts the entries of a list in deltas together by their index.
    for name, entries in (("tool_calls", message.tool_calls), ("tool_runs", message.tool_runs)):
        if entries:
            delta[name] = [{"index": number, **entry.model_dump()} for number, entry in enumerate(entries)]
    return delta


async def begun(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """``events``, once the first is there: what is wrong before is raised, and told with its status."""
    return _after(await anext(events), events)


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for event in rest:
            yield event
    finally:
        await rest.aclose()  # type: ignore[attr-defined]

"""An answer of ``/v1/chat/completions``, whole and in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from grpo_host.openai_protocol.completions import ChatCompletionChunk, ChunkChoice, MessageOut, Usage

DONE = b"data: [DONE]\n\n"
"""The last event of a stream."""


@dataclass(frozen=True, slots=True)
class Head:
    """What all pieces of one answer share."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str

    def event(self, choices: list[ChunkChoice], usage: Usage | None = None) -> bytes:
        """A piece, as a server-sent event."""
        chunk = ChatCompletionChunk(
            id=self.id, created=self.created, model=self.model, choices=choices, usage=usage
        )
        return b"data: %b\n\n" % chunk.model_dump_json(exclude_none=True).encode()


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

"""Ids of tool calls: unique in a conversation, and the same again for the same seed."""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Iterator, Sequence

from grpo_sdk.messages import Message, ToolCall

_CHARACTERS = string.ascii_letters + string.digits
_LENGTH = 9
"""Mistral's templates take exactly nine letters and digits; all others take those too."""


def call_ids(seed: int | None = None) -> Iterator[str]:
    """Ids from ``seed``; without one no other conversation has them, whoever puts conversations together."""
    source = random.SystemRandom() if seed is None else random.Random(seed)
    while True:
        yield "".join(source.choices(_CHARACTERS, k=_LENGTH))


def identified(message: Message, heard: Sequence[Message], ids: Iterator[str]) -> Message:
    """``message``, a new one, with an id for each of its calls that no call of ``heard`` has.

    An id that the model or its server gave is kept if nothing else has it.
    """
    calls = message.get("tool_calls")
    if not calls:
        return message
    taken = {call["id"] for call in _calls(heard)}
    named: list[ToolCall] = []
    for call in calls:
        id = call["id"]
        while not id or id in taken:
            id = next(ids)
        taken.add(id)
        named.append({**call, "id": id})
    return {**message, "tool_calls": named}


def _calls(messages: Iterable[Message]) -> Iterator[ToolCall]:
    for message in messages:
        yield from message.get("tool_calls", ())

"""Tell who speaks if a conversation has several users."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_sdk.messages import Message


def speakers_in_text(messages: Sequence[Message]) -> list[Message]:
    """``messages`` with the names of users before what they say: chat templates show no names."""
    return [_speaking(message) for message in messages]


def _speaking(message: Message) -> Message:
    if message["role"] == "tool" or "name" not in message:
        return message
    told = message.copy()
    name = told.pop("name")
    if message["role"] != "assistant":  # it would go on to write names before its own answers
        told["content"] = f"{name}: {message['content']}"
    return told

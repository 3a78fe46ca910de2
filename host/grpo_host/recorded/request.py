"""What was asked, of whom and for which episode, so that it is found again, or what differs is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from grpo_host.rollouts.asking import ASKING_FOR
from grpo_sdk.backend import Sampling
from grpo_sdk.messages import Message, ToolCall, ToolSchema

EXCERPT = 160
"""So many characters of each part of a request are kept, to name what differs."""

Parts = dict[str, tuple[str, str]]
"""The parts of a request by name: digest, and how it begins."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question: ``who`` was asked, and what, part by part."""

    episode: str
    who: str
    parts: Parts
    turn: int | None = None
    """Of the conversation, if it is known."""

    @property
    def digest(self) -> str:
        """Equal for requests that say the same."""
        return _digest({name: digest for name, (digest, _) in self.parts.items()})

    @property
    def where(self) -> str:
        """For messages."""
        episode = f"episode {self.episode}" if self.episode else "outside of an episode"
        return f"{episode}, turn {self.turn}" if self.turn else episode


def tool_request(turn: int, call: ToolCall) -> Request:
    """``call`` in the conversation's ``turn``, counted from 1."""
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    return _request(f'tool "{name}"', {"arguments": arguments}, turn)


def chat_request(
    who: str, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema]
) -> Request:
    """``messages`` that ``who`` is to answer."""
    said = {f"messages[{index}] ({message['role']})": message for index, message in enumerate(messages)}
    turn = 1 + sum(message["role"] == "assistant" for message in messages)
    return _request(who, {**said, "tools": list(tools), **_sampling(sampling)}, turn)


def token_request(who: str, prompt: Sequence[int], sampling: Sampling) -> Request:
    """The ids of ``prompt``, which ``who`` is to continue."""
    return _request(who, {"prompt": list(prompt), **_sampling(sampling)})


def difference(now: Parts, recorded: Mapping[str, Sequence[str]]) -> str:
    """The first part that is not the same, in words."""
    for name, (digest, excerpt) in now.items():
        if name not in recorded:
            return f"{name} is new: {excerpt}"
        if recorded[name][0] != digest:
            return f"{name} is {excerpt} now, and was {recorded[name][1]}"
    return f"{next(name for name in recorded if name not in now)} is gone"


def _request(who: str, parts: Mapping[str, Any], turn: int | None = None) -> Request:
    shown = {name: (_digest(value), _excerpt(value)) for name, value in parts.items()}
    return Request(ASKING_FOR.get(), who, shown, turn)


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """What is not as it is by default."""
    plain = Sampling()
    said = {field.name: getattr(sampling, field.name) for field in fields(sampling)}
    return {f"sampling.{name}": value for name, value in said.items() if value != getattr(plain, name)}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _excerpt(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"

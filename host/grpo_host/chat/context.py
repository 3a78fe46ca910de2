"""What the model is shown of a conversation that has grown too long for its context.

Nothing is cut inside a message, or between an assistant's tool calls and their results. The system
message and the last user message are always shown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from grpo_host.agents.rendering import Renderer
from grpo_sdk.errors import ContextOverflowError
from grpo_sdk.messages import Message, ToolSchema

Count = Callable[[Sequence[Message]], int]
"""Tokens of a conversation as the model is shown it."""


def exchanges(messages: Sequence[Message]) -> list[list[Message]]:
    """Split ``messages`` into parts that each begin with a user message, except perhaps the first."""
    parts: list[list[Message]] = []
    for message in messages:
        if message["role"] == "user" or not parts:
            parts.append([])
        parts[-1].append(message)
    return parts


def steps(messages: Sequence[Message]) -> list[list[Message]]:
    """``messages`` in the smallest parts: one message each, tool results with what they answer."""
    parts: list[list[Message]] = []
    for message in messages:
        if message["role"] == "tool" and parts:
            parts[-1].append(message)
        else:
            parts.append([message])
    return parts


def fit(messages: Sequence[Message], budget: int, count: Count) -> list[Message]:
    """As much of ``messages`` as takes at most ``budget`` tokens.

    Older exchanges go first, each as a whole; then, of the last one, the oldest tool exchanges.
    Raises ``ContextOverflowError`` if even the system message and the last user message take more.
    """
    parts = _Parts(messages)
    numbers = range(len(parts) + 1)
    dropped = bisect_left(numbers, True, key=lambda number: count(parts.without(number)) <= budget)
    if dropped in numbers:
        return parts.without(dropped)
    raise ContextOverflowError(
        f"the system prompt and the last message take {count(parts.without(len(parts)))} tokens, and "
        f"{budget} of the context are left for them; raise the context (max_context_length), or shorten "
        "the message or the system prompt"
    )


def older(messages: Sequence[Message], fits: Callable[[list[Message]], bool], turns: int) -> int:
    """How many of the oldest messages to compress so that the rest has ``turns`` exchanges and ``fits``.

    Whole exchanges are counted, and never the last; if nothing but that is left, it need not fit.
    """
    parts = exchanges(messages)
    least = min(max(0, len(parts) - turns), len(parts) - 1)
    numbers = range(least, len(parts) - 1)
    number = least + bisect_left(
        numbers, True, key=lambda first: fits([message for part in parts[first:] for message in part])
    )
    return sum(map(len, parts[:number]))


def counter(renderer: Renderer | None, tools: Sequence[ToolSchema]) -> Count:
    """A counter of tokens: exact if the host renders, else an estimate that is a little too high."""
    if renderer is not None:
        return lambda messages: len(renderer.prompt(messages, tools))
    offered = sum(len(str(tool)) for tool in tools) // 3
    return lambda messages: offered + sum(map(_estimate, messages))


def _estimate(message: Any) -> int:
    """Three bytes a token is more than English has, and about what other languages have."""
    calls = sum(len(str(call["function"])) for call in message.get("tool_calls", ()))
    return 4 + (len(message["content"].encode("utf-8", "replace")) + calls) // 3


class _Parts:
    """A conversation, split into what must be shown and what may be dropped, in the order of dropping."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._head = [message for message in messages if message["role"] == "system"]
        *self._earlier, last = exchanges([m for m in messages if m["role"] != "system"]) or [[]]
        asked = 1 if last and last[0]["role"] == "user" else 0
        self._asked, self._later = last[:asked], steps(last[asked:])

    def __len__(self) -> int:
        return len(self._earlier) + len(self._later)

    def without(self, dropped: int) -> list[Message]:
        """The conversation without the first ``dropped`` parts that may be."""
        earlier = [message for part in self._earlier[dropped:] for message in part]
        gone = max(0, dropped - len(self._earlier))
        later = [message for part in self._later[gone:] for message in part]
        return [*self._head, *earlier, *self._asked, *later]

"""Parts of the system message besides the strategy: what the conversation is about, and examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from grpo_sdk.blocking import call_blocking

if TYPE_CHECKING:
    from grpo_host.chat.store import ConversationRecord

CONVERSATION: ContextVar[ConversationRecord | None] = ContextVar("grpo_conversation", default=None)
"""The stored conversation that is answered in this context."""
EXAMPLES = 3
"""How many dialogues are shown at most."""


class Example(Protocol):
    """A dialogue as it is shown: ``grpo_host.dialogues.Dialogue`` is one."""

    @property
    def content(self) -> str: ...
    @property
    def expected_response(self) -> str: ...


@runtime_checkable
class Examples(Protocol):
    """Where examples are found: ``grpo_host.dialogues.DialogueDatabase`` is one."""

    def search(self, query: str, k: int = ...) -> Sequence[Example]: ...


def about(context: Mapping[str, Any]) -> str:
    """The facts that a conversation began with, a line each."""
    if not context:
        return ""
    lines = [f"- {key}: {_say(value)}" for key, value in context.items()]
    return "\n".join(["What you know about this conversation:", *lines])


def _say(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def recap(summary: str) -> str:
    """The summary of what is no longer shown."""
    return f"What was said earlier, in short: {summary}" if summary else ""


async def nearest(examples: Examples, message: str, characters: int) -> str:
    """The dialogues most like ``message`` that fit into ``characters``, each whole, the best first."""
    found = await call_blocking(examples.search, message, EXAMPLES)
    shown: list[str] = []
    for example in found:
        text = f"User: {example.content}\nAssistant: {example.expected_response}"
        if example.expected_response and len("\n".join([*shown, text])) <= characters:
            shown.append(text)
    return "\n".join(["Examples of good answers to messages like this one:", *shown]) if shown else ""


def joined(*parts: str) -> str:
    """The parts that say something, a blank line between them."""
    return "\n\n".join(part for part in parts if part)

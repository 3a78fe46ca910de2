"""Served graphs that wait, by ``interrupt``, for a person's next message."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from grpo_host.agents.model_calls import comparable
from grpo_host.agents.tracing import SERVED
from grpo_host.chat.prompt import CONVERSATION
from grpo_host.langchain.app_agent import Waiting
from grpo_sdk.messages import Message

MOST = 4096
"""Graphs that wait; those that have waited for longest are forgotten."""


@dataclass(frozen=True, slots=True)
class _Asked:
    question: str
    waiting: Waiting


class WaitingApps:
    """Finds the graph that asked the last question of a conversation.

    A stored conversation is known by its id, any other by who asks and all that was said before the
    question. Conversations that look the same wait side by side.
    """

    def __init__(self) -> None:
        self._asked: OrderedDict[Hashable, list[_Asked]] = OrderedDict()

    def take(self, said: Sequence[Message]) -> Waiting | None:
        """Remove and return the graph whose question the last of ``said`` answers; None: there is none."""
        if len(said) < 2:
            return None
        key, heard = _key(said[:-2]), said[-2]["content"]
        all_asked = self._asked.get(key, [])
        # A stream may have told more than the question, before it.
        found = next((asked for asked in reversed(all_asked) if heard.endswith(asked.question)), None)
        if found is None:
            return None
        all_asked.remove(found)
        if not all_asked:
            del self._asked[key]
        return found.waiting

    async def put(self, said: Sequence[Message], question: str, waiting: Waiting) -> None:
        """Keep ``waiting``, which has answered ``said`` by ``question``."""
        key = _key(said)
        self._asked.setdefault(key, []).append(_Asked(question, waiting))
        self._asked.move_to_end(key)
        while len(self._asked) > MOST:
            _, forgotten = self._asked.popitem(last=False)
            for asked in forgotten:
                await asked.waiting.forget()


def _key(said: Sequence[Message]) -> Hashable:
    record, served = CONVERSATION.get(), SERVED.get()
    owner = served.owner if served is not None else None
    if record is not None:
        return owner, record.id
    return owner, tuple(comparable(message) for message in said)

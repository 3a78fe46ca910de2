"""Where conversations are kept: what a store does, and one that keeps them in memory."""

from __future__ import annotations

import copy
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grpo_sdk.errors import GrpoError
from grpo_sdk.messages import Message


class ConflictError(GrpoError):
    """A conversation is not as the caller knew it: someone else added to it, or it exists already."""


class ConversationNotFoundError(GrpoError):
    """No conversation of this id."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f'no conversation "{conversation_id}". Start one first; it outlives the agent object only '
            "where the agent has a store that does"
        )


@dataclass(frozen=True, slots=True)
class Digest:
    """The part of a conversation that the model is no longer shown word for word."""

    messages: int = 0
    """How many of the oldest messages."""
    summary: str = ""
    """The summary that replaces them; empty: none."""


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """A conversation as it is stored. All of its messages are kept, compressed or not."""

    id: str
    user_id: str | None = None
    strategy: str = ""
    context: dict[str, Any] = field(default_factory=dict)
    """JSON-able facts that the conversation began with; the model is told them."""
    messages: list[Message] = field(default_factory=list)
    """What users, the assistant and tools said. The system message is made again for each answer."""
    created: float = field(default_factory=time.time)
    """Unix time, as is ``updated``."""
    updated: float = field(default_factory=time.time)
    owner: str = ""
    """Whose conversation it is, if several clients share a store."""
    digest: Digest = field(default_factory=Digest)
    length: int = 0
    """How many messages there are; known even if ``list`` left them out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", max(self.length, len(self.messages)))


class ConversationStore(ABC):
    """Keeps conversations. Safe to use from any event loop, and by many callers at once."""

    @abstractmethod
    async def create(self, record: ConversationRecord) -> None:
        """Keep a new conversation. Raises ``ConflictError`` if its id is taken."""

    @abstractmethod
    async def get(self, conversation_id: str) -> ConversationRecord | None:
        """The conversation with all of its messages, or None."""

    @abstractmethod
    async def append(
        self,
        conversation_id: str,
        messages: Sequence[Message],
        *,
        expected: int,
        strategy: str | None = None,
        digest: Digest | None = None,
    ) -> None:
        """Add ``messages``, all or none, to a conversation that has ``expected`` messages.

        ``strategy`` and ``digest`` are replaced if they are given. Raises ``ConflictError`` if
        the conversation has another number of messages, since somebody else has added to it, and
        ``ConversationNotFoundError``.
        """

    @abstractmethod
    async def list(
        self,
        user_id: str | None = None,
        owner: str | None = None,
        *,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[ConversationRecord]:
        """Conversations without their messages and contexts, the most recently used first."""

    @abstractmethod
    async def delete(self, conversation_id: str) -> bool:
        """Delete a conversation; return whether there was one."""

    async def close(self) -> None:
        """Release everything. Safe to call twice."""


def conflict(conversation_id: str, expected: int, found: int) -> ConflictError:
    """The error for a conversation that has grown meanwhile."""
    return ConflictError(
        f'conversation "{conversation_id}" has {found} messages, not {expected}: somebody else has added '
        "to it. Read it again, then answer"
    )


class MemoryStore(ConversationStore):
    """Keeps conversations in this process, until they are deleted or it ends."""

    def __init__(self) -> None:
        self._records: dict[str, ConversationRecord] = {}
        self._lock = threading.Lock()  # event loops in several threads may share a store

    async def create(self, record: ConversationRecord) -> None:
        kept = copy.deepcopy(record)
        with self._lock:
            if self._records.setdefault(record.id, kept) is not kept:
                raise ConflictError(f'there is a conversation "{record.id}" already; choose another id')

    async def get(self, conversation_id: str) -> ConversationRecord | None:
        with self._lock:
            record = self._records.get(conversation_id)
            # The messages themselves are never changed, here or by who reads them.
            return record and replace(record, messages=list(record.messages))

    async def append(
        self,
        conversation_id: str,
        messages: Sequence[Message],
        *,
        expected: int,
        strategy: str | None = None,
        digest: Digest | None = None,
    ) -> None:
        added = copy.deepcopy(list(messages))
        with self._lock:
            record = self._records.get(conversation_id)
            if record is None:
                raise ConversationNotFoundError(conversation_id)
            if len(record.messages) != expected:
                raise conflict(conversation_id, expected, len(record.messages))
            record.messages.extend(added)
            self._records[conversation_id] = replace(
                record,
                strategy=record.strategy if strategy is None else strategy,
                digest=digest or record.digest,
                updated=time.time(),
                length=len(record.messages),
            )

    async def list(
        self,
        user_id: str | None = None,
        owner: str | None = None,
        *,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[ConversationRecord]:
        with self._lock:
            records = [*self._records.values()]
        found = [
            record
            for record in records
            if user_id in (None, record.user_id) and owner in (None, record.owner)
        ]
        found.sort(key=lambda record: (-record.updated, record.id))
        return [replace(record, messages=[], context={}) for record in found[offset : offset + limit]]

    async def delete(self, conversation_id: str) -> bool:
        return self._records.pop(conversation_id, None) is not None

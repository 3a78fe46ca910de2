"""What people thought of answers: a score, a better answer, or both. It is deleted with its conversation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from grpo_host.chat.store import ConversationRecord
from grpo_host.storage.database import reading, writing
from grpo_host.storage.tables import feedback as _feedback
from grpo_sdk.messages import Message

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


@dataclass(frozen=True, slots=True)
class Feedback:
    """On one answer."""

    score: float | None = None
    """From 0 (bad) to 1 (good); None: not said."""
    correction: str | None = None
    """What should have been said in its place; None: not said."""
    model: str | None = None
    """Which model said the answer, if whoever gave the feedback knew."""

    @property
    def is_good(self) -> bool:
        """Whether the answer may be imitated as it is."""
        return self.score is not None and self.score >= 0.5 and self.correction is None


def is_answer(message: Message) -> bool:
    """Whether it can have feedback: the assistant said it, and calls no tool."""
    return message["role"] == "assistant" and not message.get("tool_calls")


def answers(record: ConversationRecord) -> list[int]:
    """Which messages of ``record`` can have feedback."""
    return [index for index, message in enumerate(record.messages) if is_answer(message)]


async def keep(engine: AsyncEngine, conversation_id: str, position: int, given: Feedback) -> None:
    """Keep ``given`` in place of what was said of this answer before; one that says nothing takes it back."""
    this = (_feedback.c.conversation_id == conversation_id, _feedback.c.position == position)
    async with writing(engine) as connection:
        await connection.execute(delete(_feedback).where(*this))
        if given.score is not None or given.correction is not None:
            values = {
                "conversation_id": conversation_id,
                "position": position,
                "score": given.score,
                "correction": given.correction,
                "model": given.model,
                "updated": time.time(),
            }
            await connection.execute(insert(_feedback).values(values))


async def read(engine: AsyncEngine, conversation_id: str) -> Mapping[int, Feedback]:
    """The feedback on a conversation, by the index of the message."""
    query = (
        select(_feedback).where(_feedback.c.conversation_id == conversation_id).order_by(_feedback.c.position)
    )
    async with reading(engine) as connection:
        rows = await connection.execute(query)
        return {row.position: Feedback(row.score, row.correction, row.model) for row in rows}

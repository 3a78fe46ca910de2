"""Many conversations of a database read at once, and many written in one transaction."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Integer, Text, bindparam, case, func, insert, select, update

from grpo_host.chat.store import (
    ConflictError,
    ConversationNotFoundError,
    ConversationRecord,
    Digest,
    conflict,
)
from grpo_host.storage.tables import conversations as _conversations
from grpo_host.storage.tables import messages as _messages
from grpo_sdk.errors import GrpoError
from grpo_sdk.messages import Message

if TYPE_CHECKING:
    from sqlalchemy import BindParameter
    from sqlalchemy.ext.asyncio import AsyncConnection

Also: TypeAlias = "Callable[[AsyncConnection], Awaitable[None]]"

_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_LARGE = ("context", "summary")
# One statement sees one state of the database: never a length without its messages. What is large of a
# conversation comes with its first row only.
_READ = (
    select(
        *(column for column in _conversations.columns if column.name not in _LARGE),
        *(
            case((_messages.c.position > 0, None), else_=_conversations.c[name]).label(name)
            for name in _LARGE
        ),
        _messages.c.body,
    )
    .outerjoin(_messages, _messages.c.conversation_id == _conversations.c.id)
    .where(_conversations.c.id.in_(_IDS))
    .order_by(_conversations.c.id, _messages.c.position)
)
HEAD = [column for column in _conversations.columns if column is not _conversations.c.context]
_HEADS = select(*HEAD).where(_conversations.c.id.in_(_IDS))
_LENGTHS = (
    select(_conversations.c.id, _conversations.c.length)
    .where(_conversations.c.id.in_(_IDS))
    .order_by(_conversations.c.id)
)
# Takes the row, so that a second process waits here and then finds another length.
_OF_ONE = _LENGTHS.with_for_update()
# Many wait for no process that has one of them; that fails, and then each is tried alone.
_OF_MANY = _LENGTHS.with_for_update(nowait=True)
_BEGIN = insert(_conversations)
_SAY = insert(_messages)
_GROW = (
    update(_conversations)
    .where(_conversations.c.id == bindparam("of"))
    .values(
        length=bindparam("grown"),
        updated=bindparam("now"),
        strategy=func.coalesce(bindparam("new_strategy", type_=Text), _conversations.c.strategy),
        digested=func.coalesce(bindparam("new_digested", type_=Integer), _conversations.c.digested),
        summary=func.coalesce(bindparam("new_summary", type_=Text), _conversations.c.summary),
    )
)


@dataclass(frozen=True, slots=True)
class Addition:
    """Messages for a conversation; see ``ConversationStore.append``."""

    id: str
    """The conversation's."""
    messages: Sequence[Message]
    expected: int
    strategy: str | None = None
    digest: Digest | None = None
    also: Also | None = None
    """Done in the same transaction; if it raises a ``GrpoError``, nothing of this is written."""


async def read_all(connection: AsyncConnection, ids: Sequence[str]) -> list[ConversationRecord | None]:
    """The conversations ``ids``, each with all of its messages, or None."""
    rows = (await connection.execute(_READ, {"ids": list(dict.fromkeys(ids))})).all()
    found = {id: list(own) for id, own in groupby(rows, lambda row: row[0])}
    return [_whole(found[id]) if id in found else None for id in ids]


async def read_heads(connection: AsyncConnection, ids: Sequence[str]) -> list[ConversationRecord | None]:
    """As ``read_all``, without messages and contexts."""
    rows = await connection.execute(_HEADS, {"ids": list(dict.fromkeys(ids))})
    found = {row[0]: record_of(row, {}, []) for row in rows}
    return [found.get(id) for id in ids]


def _whole(rows: Sequence[Any]) -> ConversationRecord:
    return record_of(rows[0], rows[0].context, [row[-1] for row in rows if row[-1] is not None])


async def write_all(
    connection: AsyncConnection, asked: Sequence[ConversationRecord | Addition]
) -> list[Exception | None]:
    """Write the new conversations and the additions of ``asked``; for each, why it was not written.

    The transaction takes SQLite's write lock with its first statement.
    """
    now = time.time()
    taking = _OF_ONE if len(asked) == 1 else _OF_MANY
    rows = await connection.execute(taking, {"ids": list({one.id for one in asked})})
    lengths: dict[str, int] = {row[0]: row[1] for row in rows}
    begun, grown, said, answers = [], [], [], list[Exception | None]()
    for one in asked:
        try:
            if isinstance(one, ConversationRecord):
                first = _first(one, lengths.get(one.id))
                begun.append(_begun(one))
            else:
                first = await _continued(connection, one, lengths.get(one.id))
                grown.append(_grown(one, now))
        except GrpoError as problem:
            answers.append(problem)
            continue
        said += [
            {"conversation_id": one.id, "position": position, "body": dict(body), "created": now}
            for position, body in enumerate(one.messages, first)
        ]
        lengths[one.id] = first + len(one.messages)
        answers.append(None)
    for statement, values in ((_BEGIN, begun), (_GROW, grown), (_SAY, said)):
        if values:
            await connection.execute(statement, values)
    return answers


def taken(id: str) -> ConflictError:
    """The error for an id that another conversation has."""
    return ConflictError(f'there is a conversation "{id}" already; choose another id')


def _first(one: ConversationRecord, length: int | None) -> int:
    if length is not None:
        raise taken(one.id)
    return 0


async def _continued(connection: AsyncConnection, one: Addition, length: int | None) -> int:
    if length is None:
        raise ConversationNotFoundError(one.id)
    if length != one.expected:
        raise conflict(one.id, one.expected, length)
    if one.also is not None:
        async with connection.begin_nested():  # what it has written goes if it raises; the others' stays
            await one.also(connection)
    return length


def _begun(one: ConversationRecord) -> dict[str, Any]:
    return {
        "id": one.id,
        "user_id": one.user_id,
        "owner": one.owner,
        "strategy": one.strategy,
        "context": one.context,
        "length": len(one.messages),
        "digested": one.digest.messages,
        "summary": one.digest.summary,
        "created": one.created,
        "updated": one.updated,
    }


def _grown(one: Addition, now: float) -> dict[str, Any]:
    return {
        "of": one.id,
        "grown": one.expected + len(one.messages),
        "now": now,
        "new_strategy": one.strategy,
        "new_digested": one.digest and one.digest.messages,
        "new_summary": one.digest and one.digest.summary,
    }


def record_of(row: Any, context: dict[str, Any], messages: list[Message]) -> ConversationRecord:
    """The conversation of a row of the table, or of those of its columns that ``list`` reads."""
    return ConversationRecord(
        id=row.id,
        user_id=row.user_id,
        strategy=row.strategy,
        context=context,
        messages=messages,
        created=row.created,
        updated=row.updated,
        owner=row.owner,
        digest=Digest(row.digested, row.summary),
        length=row.length,
    )

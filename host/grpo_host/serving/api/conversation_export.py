"""Export an owner's conversations, one a line: as they are, or as training data."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.responses import Response, StreamingResponse

from grpo_host.chat.feedback import read
from grpo_host.chat.store import ConversationRecord
from grpo_host.export.conversations import lines_of
from grpo_host.export.formats import Format
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.api.chat import Name, OwnersConversations, Whose, whole
from grpo_host.serving.http.endpoint import Call, Endpoint

NDJSON = "application/x-ndjson"


class Exported(Whose):
    """Which of the caller's conversations, and as what."""

    conversation_id: Name | None = None
    """This one; None: all."""
    format: Format | None = None
    """None: as they are. trajectory: for grpo-host score. task: rows of the environment dataset.
    demonstration: for training.warm_start.dialogues. feedback: for the reward neural. Of all, tasks and
    demonstrations are those that somebody scored well or corrected."""


class OwnersExported(Exported, OwnersConversations):
    """Which conversations of an owner, and as what."""


def endpoints() -> list[Endpoint]:
    return [
        Endpoint(
            "GET",
            "/api/conversations/export",
            export_conversations,
            Scope.CHAT,
            "All conversations of the caller, one a line, or what a training takes of them",
            tags=("chat",),
            query=Exported,
            content_type=NDJSON,
        ),
        Endpoint(
            "GET",
            "/api/owners/conversations",
            export_of_owner,
            Scope.ADMIN,
            "All conversations of an owner, one a line, or what a training takes of them",
            tags=("administration",),
            query=OwnersExported,
            content_type=NDJSON,
        ),
    ]


async def export_conversations(call: Call) -> Response:
    """As newline-delimited JSON, the one last spoken in first."""
    return await _export(call, call.key.owner)


async def export_of_owner(call: Call) -> Response:
    """As newline-delimited JSON, the one last spoken in first."""
    return await _export(call, call.query.owner)


async def _export(call: Call, owner: str) -> Response:
    asked: Exported = call.query
    if asked.conversation_id is None:
        return StreamingResponse(
            _lines(call, call.services.chat.export(owner, asked.user_id)), media_type=NDJSON
        )
    record = await call.services.chat.record(asked.conversation_id, owner, asked.user_id)

    async def one() -> AsyncIterator[ConversationRecord]:
        yield record

    return StreamingResponse(_lines(call, one()), media_type=NDJSON)


async def _lines(call: Call, records: AsyncIterator[ConversationRecord]) -> AsyncIterator[bytes]:
    asked: Exported = call.query
    async for record in records:
        if asked.format is None:
            yield whole(record).model_dump_json().encode() + b"\n"
            continue
        given = await read(call.services.database, record.id)
        for line in lines_of(record, given, asked.format, chosen=asked.conversation_id is not None):
            yield line

"""``/api/chat`` and ``/api/conversations``: talking to the agent, its tools and memory included."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import Response

from grpo_host.chat.store import ConversationRecord
from grpo_host.openai_protocol.chunks import sent_event
from grpo_host.openai_protocol.errors import ApiError
from grpo_host.openai_protocol.tool_runs import ToolRun
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.api.conversations import Opened, Turn
from grpo_host.serving.http.endpoint import Call, Endpoint
from grpo_host.serving.http.event_stream import Put, event_stream

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


IdempotencyKey = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$")]

CONTEXT_BYTES = 16 * 1024


def _storable(context: dict[str, Any]) -> dict[str, Any]:
    # Raises ValueError: no store keeps what JSON cannot say.
    if len(json.dumps(context, allow_nan=False)) > CONTEXT_BYTES:
        raise ValueError(f"give at most {CONTEXT_BYTES} bytes of JSON; the model reads it with every message")
    return context


Facts = Annotated[dict[str, Any], AfterValidator(_storable)]


class ChatRequest(BaseModel):
    """A message to the agent."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"message": "Hello"}]})

    message: Annotated[str, Field(min_length=1, max_length=100_000)]
    conversation_id: Name | None = None
    """None: a new conversation."""
    strategy: Name | None = None
    """A registered strategy's name; it holds from now on. None: the conversation's, or the server's."""
    context: Facts | None = None
    """Facts that a new conversation begins with; the model is told."""
    user_id: Name | None = None
    """Of the caller's own; to find conversations by."""
    model: Name | None = None
    """One of GET /v1/models; None: the agent."""
    use_tools: bool = True
    stream: bool = False
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Of each thing that the model says. None, as with the next two: as serving.sampling says."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    idempotency_key: IdempotencyKey | None = None
    """The same whenever this request is sent again: it is answered once, and that answer given again for a
    day. The header Idempotency-Key says the same."""

    def turn(self) -> Turn:
        return Turn(**self.model_dump(exclude={"stream"}))


class ChatResponse(BaseModel):
    """The agent's answer; it is stored when this is sent."""

    response: str
    conversation_id: str
    strategy: str
    tool_runs: list[ToolRun] = []
    """The tools that were called for it."""
    finish_reason: str | None = None
    """Why it ended: stop, or length if it was cut."""


class ChatEvent(BaseModel):
    """A piece of a streamed answer, or its end."""

    delta: str | None = None
    response: str | None = None
    """The whole answer, in the last event."""
    tool_runs: list[ToolRun] | None = None
    """The tools that were called for it, in the last event, as is why the answer ended."""
    finish_reason: str | None = None
    conversation_id: str
    strategy: str


class Page(BaseModel):
    """Which conversations to list."""

    model_config = ConfigDict(extra="forbid")

    user_id: Name | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class Whose(BaseModel):
    """Which of the caller's conversations; all, if no user is named."""

    model_config = ConfigDict(extra="forbid")

    user_id: Name | None = None


class OwnersConversations(Whose):
    """Which conversations of an owner."""

    owner: Name
    """As ``grpo-host keys list`` names it."""


class OwnedConversations(OwnersConversations):
    """Which conversations of an owner, or which one."""

    conversation_id: Name | None = None


class Forgotten(BaseModel):
    """How many conversations were deleted."""

    deleted: int


class ConversationHead(BaseModel):
    """A conversation without its messages."""

    conversation_id: str
    user_id: str | None
    strategy: str
    begins: str = ""
    """The first words, in a list."""
    messages: int
    created: float
    """Unix time, as is ``updated``."""
    updated: float


class ConversationList(BaseModel):
    """The caller's conversations, the one last spoken in first."""

    conversations: list[ConversationHead]


class Conversation(ConversationHead):
    """A conversation with all that was said."""

    context: dict[str, Any]
    history: list[dict[str, Any]]


def endpoints() -> list[Endpoint]:
    gone = {404: "There is no such conversation, or it is another owner's"}
    return [
        Endpoint(
            "POST",
            "/api/chat",
            chat,
            Scope.CHAT,
            "Say something to the agent; without a conversation_id a conversation begins",
            tags=("chat",),
            request=ChatRequest,
            response=ChatResponse,
            stream=ChatEvent,
            statuses={
                **gone,
                409: "Another process has answered meanwhile, or the same request is being answered",
            },
        ),
        Endpoint(
            "GET",
            "/api/conversations",
            list_conversations,
            Scope.CHAT,
            "The caller's conversations",
            tags=("chat",),
            query=Page,
            response=ConversationList,
        ),
        Endpoint(
            "DELETE",
            "/api/conversations",
            forget_conversations,
            Scope.CHAT,
            "Forget all conversations of the caller, or of one user_id",
            tags=("chat",),
            query=Whose,
            response=Forgotten,
        ),
        Endpoint(
            "DELETE",
            "/api/owners/conversations",
            forget_of_owner,
            Scope.ADMIN,
            "Forget all conversations of an owner, those of one user_id, or one",
            tags=("administration",),
            query=OwnedConversations,
            response=Forgotten,
        ),
        Endpoint(
            "GET",
            "/api/conversations/{conversation_id}",
            read_conversation,
            Scope.CHAT,
            "A conversation with its messages",
            tags=("chat",),
            response=Conversation,
            statuses=gone,
        ),
        Endpoint(
            "DELETE",
            "/api/conversations/{conversation_id}",
            delete_conversation,
            Scope.CHAT,
            "Forget a conversation",
            tags=("chat",),
            status=204,
            statuses=gone,
        ),
    ]


async def chat(call: Call) -> ChatResponse | Response:
    """The answer, whole or as server-sent events."""
    request = _with_header(call, call.body)
    if request.stream:
        work = partial(_streamed, call, request)
        return await event_stream(call, work, lambda problem: _failure(problem, call))
    async with call.services.chat.open(request.turn(), call.key) as opened:
        said = await opened.answer()
    answer = ChatResponse(
        response=said.text,
        conversation_id=opened.conversation_id,
        strategy=opened.strategy,
        tool_runs=said.tool_runs,
        finish_reason=said.finish_reason,
    )
    if not opened.replayed:
        return answer
    headers = {"idempotent-replayed": "true"}
    return Response(answer.model_dump_json(), headers=headers, media_type="application/json")


def _with_header(call: Call, request: ChatRequest) -> ChatRequest:
    """``request`` with the idempotency key of its header."""
    given = call.request.headers.get("idempotency-key")
    if given is None:
        return request
    if not 0 < len(given) <= 255 or not given.isascii() or not given.isprintable():
        message = "the header Idempotency-Key has 1 to 255 letters"
        raise ApiError(400, "invalid_request", message, param="Idempotency-Key")
    if request.idempotency_key not in (None, given):
        message = "the header Idempotency-Key and the field idempotency_key differ; send one"
        raise ApiError(400, "invalid_request", message, param="idempotency_key")
    return request.model_copy(update={"idempotency_key": given})


async def list_conversations(call: Call) -> ConversationList:
    """List the caller's conversations, the one last spoken in first."""
    page: Page = call.query
    records = await call.services.chat.store.list(
        page.user_id, call.key.owner, limit=page.limit, offset=page.offset
    )
    begins = await call.services.chat.store.beginnings([record.id for record in records])
    heads = [ConversationHead(**_head(record), begins=begins.get(record.id, "")) for record in records]
    return ConversationList(conversations=heads)


async def read_conversation(call: Call) -> Conversation:
    """Give a conversation with its messages."""
    record = await call.services.chat.record(call.path["conversation_id"], call.key.owner)
    return whole(record)


async def delete_conversation(call: Call) -> Response:
    """Delete a conversation."""
    await call.services.chat.delete(call.path["conversation_id"], call.key)
    return Response(status_code=204)


async def forget_conversations(call: Call) -> Forgotten:
    """Delete the caller's conversations."""
    return Forgotten(deleted=await call.services.chat.forget(call.key.owner, call.query.user_id))


async def forget_of_owner(call: Call) -> Forgotten:
    """Delete conversations of an owner."""
    asked: OwnedConversations = call.query
    count = await call.services.chat.forget(asked.owner, asked.user_id, asked.conversation_id)
    return Forgotten(deleted=count)


def whole(record: ConversationRecord) -> Conversation:
    """The conversation as its owner reads it."""
    history = [dict(message) for message in record.messages]
    return Conversation(**_head(record), context=record.context, history=history)


def _head(record: ConversationRecord) -> dict[str, Any]:
    return {
        "conversation_id": record.id,
        "user_id": record.user_id,
        "strategy": record.strategy,
        "messages": record.length,
        "created": record.created,
        "updated": record.updated,
    }


async def _streamed(call: Call, request: ChatRequest, put: Put) -> None:
    """The answer's pieces, and at the end the whole."""
    async with call.services.chat.open(request.turn(), call.key) as opened:
        text = ""
        async for piece in opened.pieces():
            if isinstance(piece, str):
                text += piece
                put(_event(opened, delta=piece))
            else:
                ended = piece.finish_reason
                put(_event(opened, response=text, tool_runs=piece.tool_runs, finish_reason=ended))


def _event(opened: Opened, **values: Any) -> bytes:
    event = ChatEvent(conversation_id=opened.conversation_id, strategy=opened.strategy, **values)
    return sent_event(event.model_dump_json(exclude_none=True).encode())


def _failure(problem: ApiError, call: Call) -> bytes:
    error = {"code": problem.code, "message": problem.message}
    return sent_event(orjson.dumps({"error": error, "request_id": call.request_id}))

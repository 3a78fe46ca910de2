"""Feedback: what people say that an answer was worth, or what it should have been."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from grpo_host.chat.feedback import Feedback, answers, keep, read
from grpo_host.openai_protocol.errors import ApiError
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.api.chat import Name
from grpo_host.serving.http.endpoint import Call, Endpoint


class FeedbackRequest(BaseModel):
    """What somebody thinks of an answer. Without score and correction, what was said before is taken back."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"score": 0, "correction": "It arrives on Monday."}]}
    )

    message: Annotated[int, Field(ge=0)] | None = None
    """The index of the answer in the conversation's history; None: the last answer."""
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """From 0 (bad) to 1 (good)."""
    correction: Annotated[str, Field(min_length=1, max_length=100_000, pattern=r"^[^\x00]*$")] | None = None
    """What should have been said."""
    model: Name | None = None
    """Which model said the answer."""


class FeedbackGiven(BaseModel):
    """What is kept of an answer."""

    message: int
    """Its index in the history."""
    score: float | None
    correction: str | None
    model: str | None


class FeedbackList(BaseModel):
    """All feedback on a conversation."""

    feedback: list[FeedbackGiven]


def endpoints() -> list[Endpoint]:
    gone = {404: "There is no such conversation, or it is another owner's"}
    path = "/api/conversations/{conversation_id}/feedback"
    return [
        Endpoint(
            "POST",
            path,
            give,
            Scope.CHAT,
            "Say what an answer was worth, or what it should have been",
            tags=("chat",),
            request=FeedbackRequest,
            response=FeedbackGiven,
            statuses=gone,
        ),
        Endpoint(
            "GET",
            path,
            given,
            Scope.CHAT,
            "What was said of a conversation's answers",
            tags=("chat",),
            response=FeedbackList,
            statuses=gone,
        ),
    ]


async def give(call: Call) -> FeedbackGiven:
    """Keep feedback on an answer in place of earlier feedback."""
    request: FeedbackRequest = call.body
    record = await call.services.chat.record(call.path["conversation_id"], call.key.owner)
    there = answers(record)
    position = request.message if request.message is not None else max(there, default=-1)
    if position not in there:
        where = ", ".join(map(str, there)) or "none"
        message = f"message {position} of the conversation is no answer; answers are: {where}"
        raise ApiError(422, "invalid_request", message, param="message")
    found = Feedback(request.score, request.correction, request.model)
    await keep(call.services.database, record.id, position, found)
    return _shown(position, found)


async def given(call: Call) -> FeedbackList:
    """Give all feedback on a conversation, in the order of the answers."""
    record = await call.services.chat.record(call.path["conversation_id"], call.key.owner)
    found = await read(call.services.database, record.id)
    return FeedbackList(feedback=[_shown(position, said) for position, said in found.items()])


def _shown(position: int, said: Feedback) -> FeedbackGiven:
    return FeedbackGiven(message=position, score=said.score, correction=said.correction, model=said.model)

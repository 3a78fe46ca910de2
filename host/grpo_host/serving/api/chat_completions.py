"""``/v1``: the served models for every client that speaks OpenAI's protocol.

The agent's own name, and those of its runs, stand for the agent: its instructions go before the
caller's system message. A caller that brings tools runs them; if it brings none, the agent calls its
own, which run here, and the answer tells which.
"""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import orjson
from starlette.responses import Response

from grpo_host.agents.reply import OnText
from grpo_host.openai_protocol.chunks import DONE, Head, last_delta
from grpo_host.openai_protocol.completions import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChunkChoice,
    Model,
    ModelList,
)
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.api.openai_turn import Answering, usage_of
from grpo_host.serving.http.api_error import ApiError
from grpo_host.serving.http.endpoint import Call, Endpoint
from grpo_host.serving.http.errors import render
from grpo_host.serving.http.event_stream import Put, event_stream


def endpoints() -> list[Endpoint]:
    return [
        Endpoint(
            "POST",
            "/v1/chat/completions",
            complete,
            Scope.CHAT,
            "Answer a conversation, as OpenAI's API does",
            tags=("openai",),
            request=ChatCompletionRequest,
            response=ChatCompletion,
            stream=ChatCompletionChunk,
            exclude_none=True,
            statuses={404: "There is no such model", 503: "The model cannot answer now"},
        ),
        Endpoint(
            "GET",
            "/v1/models",
            models,
            Scope.CHAT,
            "The models that can be asked: the agent, its model, and every trained run",
            tags=("openai",),
            response=ModelList,
        ),
        Endpoint(
            "GET",
            "/v1/models/{model_id:path}",
            model,
            Scope.CHAT,
            "One of the models, by its name",
            tags=("openai",),
            response=Model,
            statuses={404: "There is no such model"},
        ),
    ]


async def models(call: Call) -> ModelList:
    """Every name that ``model`` may have."""
    catalogue = call.services.models.catalogue
    return ModelList(data=[Model(id=entry.id, created=entry.created) for entry in catalogue])


async def model(call: Call) -> Model:
    """What stands in the list of models about one of them."""
    entry = call.services.models.catalogue.find(call.path["model_id"])
    return Model(id=entry.id, created=entry.created)


async def complete(call: Call) -> ChatCompletion | Response:
    """The answers, whole or as a stream of server-sent events."""
    request: ChatCompletionRequest = call.body
    head = Head(f"chatcmpl-{uuid4().hex}", int(time.time()), request.model)
    if request.stream:
        return await event_stream(
            call,
            lambda put: _streamed(call, request, head, put),
            lambda problem: _failure(problem, call),
            end=DONE,
        )
    async with call.services.models.lease(request.model) as lease:
        answering = Answering(call, request, lease, head.id)
        answers = await answering.all()
    return ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=[answering.choice(index, answer) for index, answer in enumerate(answers)],
        usage=usage_of(answers),
    )


async def _streamed(call: Call, request: ChatCompletionRequest, head: Head, put: Put) -> None:
    opened: set[int] = set()

    def add(index: int, delta: dict[str, Any], **rest: Any) -> None:
        if index not in opened:
            opened.add(index)
            delta = {"role": "assistant", "content": "", **delta}
        put(head.event([ChunkChoice(index=index, delta=delta, **rest)]))

    def on_text(index: int) -> OnText:
        return lambda text: add(index, {"content": text})

    async with call.services.models.lease(request.model) as lease:
        answering = Answering(call, request, lease, head.id)
        answers = await answering.all(on_text)
        for index, item in enumerate(answers):
            choice = answering.choice(index, item)
            last = last_delta(choice.message)
            add(index, last, finish_reason=choice.finish_reason, logprobs=choice.logprobs)
        if request.stream_options and request.stream_options.include_usage:
            put(head.event([], usage_of(answers)))


def _failure(problem: ApiError, call: Call) -> bytes:
    body = render(problem, "/v1/", call.request_id).body
    return b"data: %b\n\n" % orjson.dumps(orjson.loads(bytes(body)))

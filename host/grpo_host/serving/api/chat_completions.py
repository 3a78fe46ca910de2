"""``/v1``: the served models for every client that speaks OpenAI's protocol.

The agent's own name, and those of its runs, stand for the agent: its instructions go before the
caller's system message. A caller that brings tools runs them; if it brings none, the agent calls its
own, which run here, and the answer tells which.
"""

from __future__ import annotations

import orjson
from starlette.responses import Response

from grpo_host.agents.reply import OnText
from grpo_host.openai_protocol.chunks import DONE, CompletionWriter, last_delta, sent_event
from grpo_host.openai_protocol.completions import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Model,
    ModelList,
)
from grpo_host.openai_protocol.errors import openai_body
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.api.openai_turn import Answering, usage_of
from grpo_host.serving.http.endpoint import Call, Endpoint
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
    writer = CompletionWriter(request.model)
    if request.stream:
        return await event_stream(
            call,
            lambda put: _streamed(call, request, writer, put),
            lambda problem: sent_event(orjson.dumps(openai_body(problem))),
            end=DONE,
        )
    async with call.services.models.lease(request.model) as lease:
        answering = Answering(call, request, lease, writer.id)
        answers = await answering.all()
    choices = [answering.choice(index, answer) for index, answer in enumerate(answers)]
    return writer.whole(choices, usage_of(answers))


async def _streamed(call: Call, request: ChatCompletionRequest, writer: CompletionWriter, put: Put) -> None:
    def on_text(index: int) -> OnText:
        return lambda text: put(writer.piece(index, {"content": text}))

    async with call.services.models.lease(request.model) as lease:
        answering = Answering(call, request, lease, writer.id)
        answers = await answering.all(on_text)
        for index, answer in enumerate(answers):
            choice = answering.choice(index, answer)
            ends = {"finish_reason": choice.finish_reason, "logprobs": choice.logprobs}
            put(writer.piece(index, last_delta(choice.message), **ends))
        if request.stream_options and request.stream_options.include_usage:
            put(writer.used(usage_of(answers)))

"""``/v1/responses``: the same answers as ``/v1/chat/completions``, for clients of the newer protocol."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from pydantic import BaseModel
from starlette.responses import Response

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.openai_protocol.tool_runs import shown
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.api.openai_turn import Answer, Answering, usage_of
from grpo_host.serving.api.responses_schema import (
    Failure,
    Incomplete,
    OutputCall,
    OutputMessage,
    OutputText,
    ResponseEvent,
    ResponseOut,
    ResponsesRequest,
    ResponseUsage,
    Status,
)
from grpo_host.serving.http.endpoint import Call, Endpoint
from grpo_host.serving.http.event_stream import Put, event_stream


def endpoints() -> list[Endpoint]:
    return [
        Endpoint(
            "POST",
            "/v1/responses",
            respond,
            Scope.CHAT,
            "Answer a conversation, as OpenAI's Responses API does without its memory",
            tags=("openai",),
            request=ResponsesRequest,
            response=ResponseOut,
            stream=ResponseEvent,
            statuses={404: "There is no such model", 503: "The model cannot answer now"},
        )
    ]


async def respond(call: Call) -> ResponseOut | Response:
    """The answer, whole or as a stream of server-sent events. Nothing is kept."""
    writer = _Writer(call.body)
    if call.body.stream:
        return await event_stream(call, lambda put: _streamed(call, writer, put), writer.failure)
    answer = await _answer(call, writer.id)
    return writer.done(answer, answer.text)


async def _answer(call: Call, response_id: str, on_text: Any = None) -> Answer:
    async with call.services.models.lease(call.body.model) as lease:
        [answer] = await Answering(call, call.body, lease, response_id).all(lambda _: on_text)
    return answer


async def _streamed(call: Call, writer: _Writer, put: Put) -> None:
    told: list[str] = []

    def on_text(text: str) -> None:
        if text:
            put(writer.begin_text() + writer.text_event("delta", delta=text))
            told.append(text)

    answer = await _answer(call, writer.id, on_text)
    put(writer.end(answer, "".join(told)))


def _tool_choice(request: ResponsesRequest) -> str | dict[str, Any]:
    choice = request.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump()


def _text_settings(request: ResponsesRequest) -> dict[str, Any]:
    asked = request.text.format if request.text else None
    return {"format": asked.model_dump(by_alias=True, exclude_none=True) if asked else {"type": "text"}}


class _Writer:
    """One response as it is written: its head, its items, and the events that tell of them."""

    def __init__(self, request: ResponsesRequest) -> None:
        self._head = ResponseOut(
            id=f"resp_{uuid4().hex}",
            created_at=int(time.time()),
            status="in_progress",
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            metadata=request.metadata or {},
            model=request.model,
            output=[],
            parallel_tool_calls=request.parallel_tool_calls is not False,
            temperature=request.temperature,
            text=_text_settings(request),
            tool_choice=_tool_choice(request),
            tools=[{"type": "function", **tool.shown(), "strict": False} for tool in request.tools or ()],
            top_p=request.top_p,
        )
        self._message_id = f"msg_{uuid4().hex}"
        self._number = 0
        self._begun = False
        self._speaks = False

    @property
    def id(self) -> str:
        """Of the response."""
        return self._head.id

    def done(self, answer: Answer, text: str) -> ResponseOut:
        """The whole response."""
        cut = answer.finish_reason == "length"
        status: Status = "incomplete" if cut else "completed"
        output: list[OutputMessage | OutputCall] = []
        if text or not answer.calls:
            output.append(self._message(text, status))
        for call in answer.calls:
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            output.append(
                OutputCall(
                    id=f"fc_{uuid4().hex}",
                    call_id=call["id"],
                    name=name,
                    arguments=arguments,
                    status="completed",
                )
            )
        usage = usage_of([answer])
        return self._head.model_copy(
            update={
                "status": status,
                "completed_at": int(time.time()),
                "incomplete_details": Incomplete(reason="max_output_tokens") if cut else None,
                "output": output,
                "tool_runs": shown(answer.tools) or None,
                "usage": ResponseUsage(
                    input_tokens=usage.prompt_tokens,
                    output_tokens=usage.completion_tokens,
                    total_tokens=usage.total_tokens,
                ),
            }
        )

    def begin_text(self) -> bytes:
        """The events before the first piece of text."""
        if self._speaks:
            return b""
        self._speaks = True
        return (
            self._begin()
            + self._event("response.output_item.added", output_index=0, item=self._message("", "in_progress"))
            + self._part("added", "")
        )

    def text_event(self, what: str, **fields: Any) -> bytes:
        return self._event(
            f"response.output_text.{what}",
            item_id=self._message_id,
            output_index=0,
            content_index=0,
            logprobs=[],
            **fields,
        )

    def end(self, answer: Answer, told: str) -> bytes:
        """The events after the last piece of text."""
        whole = self.done(answer, told)
        events = [self._begin()]
        for index, item in enumerate(whole.output):
            if isinstance(item, OutputMessage):
                events += [self.begin_text(), self.text_event("done", text=told), self._part("done", told)]
            else:
                begun = item.model_copy(update={"arguments": "", "status": "in_progress"})
                place = {"item_id": item.id, "output_index": index}
                arguments = "response.function_call_arguments"
                events += [
                    self._event("response.output_item.added", output_index=index, item=begun),
                    self._event(f"{arguments}.delta", **place, delta=item.arguments),
                    self._event(f"{arguments}.done", **place, name=item.name, arguments=item.arguments),
                ]
            events.append(self._event("response.output_item.done", output_index=index, item=item))
        return b"".join([*events, self._event(f"response.{whole.status}", response=whole)])

    def failure(self, problem: ApiError) -> bytes:
        """The event of a failure after the beginning."""
        error = Failure(code=problem.code, message=problem.message)
        failed = self._head.model_copy(update={"status": "failed", "error": error})
        return self._event("error", code=problem.code, message=problem.message, param=None) + self._event(
            "response.failed", response=failed
        )

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._event("response.created", response=self._head) + self._event(
            "response.in_progress", response=self._head
        )

    def _message(self, text: str, status: Status) -> OutputMessage:
        content = [OutputText(text=text)] if status != "in_progress" else []
        return OutputMessage(id=self._message_id, status=status, content=content)

    def _part(self, what: str, text: str) -> bytes:
        return self._event(
            f"response.content_part.{what}",
            item_id=self._message_id,
            output_index=0,
            content_index=0,
            part=OutputText(text=text),
        )

    def _event(self, kind: str, **fields: Any) -> bytes:
        held = {n: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for n, v in fields.items()}
        event = ResponseEvent(type=kind, sequence_number=self._number, **held)
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), event.model_dump_json().encode())

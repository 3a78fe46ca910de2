"""Answers as server-sent events, as they come, for ``/v1`` and ``/api/chat``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.responses import StreamingResponse

from grpo_host.openai_protocol.chunks import begun
from grpo_host.openai_protocol.errors import ApiError
from grpo_host.serving.http.admission import shutting_down
from grpo_host.serving.http.endpoint import Call
from grpo_host.serving.http.errors import answered
from grpo_sdk.errors import GrpoError

Put = Callable[[bytes], None]
"""Sends an event."""

_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def event_stream(
    call: Call,
    work: Callable[[Put], Awaitable[None]],
    failure: Callable[[ApiError], bytes],
    end: bytes = b"",
) -> StreamingResponse:
    """What ``work`` puts, then ``end``.

    What fails before the first event is raised, so that it is told with its status; what fails later is the
    event ``failure``.
    """
    events = await begun(_events(call, work, failure, end))
    return StreamingResponse(events, media_type="text/event-stream", headers=_HEADERS)


async def _events(
    call: Call, work: Callable[[Put], Awaitable[None]], failure: Callable[[ApiError], bytes], end: bytes
) -> AsyncIterator[bytes]:
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(queue.put_nowait))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    told = False
    try:
        while (event := await queue.get()) is not None:
            told = True
            yield event
        try:
            await task
        except GrpoError as problem:
            if not told:
                raise
            yield failure(answered(problem, f"request {call.request_id}"))
        except Exception:
            if not told:
                raise
            yield failure(ApiError(500, "internal_error", "the answer failed"))
        if end:
            yield end
    except asyncio.CancelledError:
        if not told or not call.services.admission.cuts():
            raise
        yield failure(shutting_down())
        if end:
            yield end
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

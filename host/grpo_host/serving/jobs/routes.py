"""The routes of training jobs."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.http.endpoint import Call, Endpoint
from grpo_host.serving.jobs.progress import MetricsReader, StepDone, last_step
from grpo_host.serving.jobs.record import Job, State
from grpo_host.serving.jobs.request import TrainRequest

if TYPE_CHECKING:
    from grpo_host.serving.jobs.queue import JobQueue

JOB_ID = re.compile(r"job_[0-9a-f]{24}")
EVENT_SECONDS = 0.5
"""Between two looks at a job whose events are streamed."""
KEEP_ALIVE_SECONDS = 15.0
"""A stream on which nothing happens says at least so much: proxies close silent connections."""
WATCHED = 64
"""Streams at once, a process: each looks into the database again and again."""
TAGS = ("training",)


class _View(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Progress(_View):
    """How far a job is."""

    step: int
    """The last step that is done."""
    of: int
    """Steps in all."""
    reward: float | None
    """Mean reward of that step."""
    seconds: float
    """Since the job first ran, until now or its end."""


class JobResult(_View):
    """What a job came to."""

    steps: int | None = None
    seconds: float | None = None
    reward_before: float | None = None
    """On the held-out prompts or tasks, before training."""
    reward_after: float | None = None


class JobView(_View):
    """A training job."""

    job_id: str
    status: State
    strategy: str
    created: float
    """Seconds since the epoch, as with the other times."""
    started: float | None
    finished: float | None
    cancelling: bool
    """It was asked to stop and saves where it stands."""
    progress: Progress
    run: str | None
    """Its run, as ``grpo-host serve --run`` and ``/v1/models`` name it."""
    model: str | None
    """The trained model's name, once the job has succeeded."""
    result: JobResult | None
    error: str | None
    """Why it failed, or was interrupted."""
    notes: list[str]
    """What else there is to know."""


class JobList(_View):
    """Jobs, the newest first."""

    jobs: list[JobView]


class JobListQuery(_View):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    status: State | None = None
    limit: int = Field(20, ge=1, le=100)
    offset: int = Field(0, ge=0, le=1_000_000)


class JobEvent(_View):
    """One event of a job: ``progress`` after a step, ``state`` where its status changed."""

    job_id: str
    status: State
    progress: Progress
    model: str | None
    error: str | None


def job_endpoints() -> list[Endpoint]:
    return [
        Endpoint(
            "POST",
            "/api/train",
            train,
            scope=Scope.TRAIN,
            summary="Start a training job",
            tags=TAGS,
            request=TrainRequest,
            response=JobView,
            status=202,
            statuses={409: "The agent that is served cannot be trained"},
        ),
        Endpoint(
            "GET",
            "/api/status/{job_id}",
            status,
            scope=Scope.TRAIN,
            summary="How far a training job is",
            tags=TAGS,
            response=JobView,
            statuses={404: "There is no such job of this owner"},
        ),
        Endpoint(
            "GET",
            "/api/jobs",
            list_jobs,
            scope=Scope.TRAIN,
            summary="The owner's training jobs; with the scope admin, everybody's",
            tags=TAGS,
            query=JobListQuery,
            response=JobList,
        ),
        Endpoint(
            "POST",
            "/api/jobs/{job_id}/cancel",
            cancel,
            scope=Scope.TRAIN,
            summary="Cancel a training job",
            tags=TAGS,
            response=JobView,
            statuses={404: "There is no such job of this owner", 409: "It has ended already"},
        ),
        Endpoint(
            "GET",
            "/api/jobs/{job_id}/events",
            events,
            scope=Scope.TRAIN,
            summary="The progress of a training job, as it is made",
            tags=TAGS,
            stream=JobEvent,
            statuses={404: "There is no such job of this owner"},
            takes_slot=False,
        ),
    ]


async def train(call: Call) -> JobView:
    """Answers once the job is in the queue; watch it at /api/status or /api/jobs/{job_id}/events."""
    queue = _queue(call)
    return await _view(queue, await queue.submit(call.key.owner, call.body))


async def status(call: Call) -> JobView:
    """A job that its server did not finish is queued or running again on the next one."""
    queue = _queue(call)
    return await _view(queue, await _job(call))


async def list_jobs(call: Call) -> JobList:
    """The newest first."""
    queue, query = _queue(call), call.query
    found = await queue.list(_owner(call), state=query.status, limit=query.limit, offset=query.offset)
    return JobList(jobs=[await _view(queue, job) for job in found])


async def cancel(call: Call) -> JobView:
    """A job that runs saves a checkpoint first: its status changes when it has stopped."""
    queue = _queue(call)
    return await _view(queue, await queue.cancel(_job_id(call), _owner(call)))


async def events(call: Call) -> Response:
    """Server-sent events until the job has ended; after a lost connection Last-Event-ID goes on."""
    job = await _job(call)
    last = call.request.headers.get("last-event-id", "")
    after = int(last) if re.fullmatch(r"[0-9]{1,9}", last) else 0
    queue = _queue(call)
    if queue.watched >= WATCHED:
        raise ApiError(429, "overloaded", "too many streams of events are open", retry_after=5.0)
    stream = _watched(queue, job, after, call.services.draining)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _watched(queue: JobQueue, job: Job, after: int, draining: asyncio.Event) -> AsyncIterator[bytes]:
    queue.watched += 1
    try:
        async for event in _events(queue, job, after, draining):
            yield event
    finally:
        queue.watched -= 1


async def _events(queue: JobQueue, job: Job, after: int, draining: asyncio.Event) -> AsyncIterator[bytes]:
    reader: MetricsReader | None = None
    known: State | None = None
    reached, said = after, time.monotonic()
    while True:
        told: list[bytes] = []
        if reader is None and (directory := queue.directory(job)) is not None:
            reader = MetricsReader(directory.metrics, after=after)
        # After the state was read: all steps of a job that has ended are in its file.
        for done in await asyncio.to_thread(_new_steps, reader):
            reached = done.step
            told.append(_event("progress", _job_event(job, done), reached))
        if job.state is not known:
            known = job.state
            view = JobEvent.model_validate(await _view(queue, job), from_attributes=True)
            told.insert(len(told) if known.final else 0, _event("state", view, reached))
        for event in told:
            yield event
        if job.state.final or draining.is_set():
            return
        if told:
            said = time.monotonic()
        elif time.monotonic() - said > KEEP_ALIVE_SECONDS:
            yield b": still there\n\n"
            said = time.monotonic()
        await asyncio.sleep(EVENT_SECONDS)
        job = await queue.get(job.id, None)


def _new_steps(reader: MetricsReader | None) -> list[StepDone]:
    return [] if reader is None else list(reader.new_steps())


def _event(name: str, event: JobEvent, number: int) -> bytes:
    return f"id: {number}\nevent: {name}\ndata: {event.model_dump_json()}\n\n".encode()


def _job_event(job: Job, done: StepDone) -> JobEvent:
    seconds = max(0.0, done.time - job.started) if done.time and job.started else 0.0
    progress = Progress(step=done.step, of=job.steps, reward=done.reward, seconds=seconds)
    return JobEvent(job_id=job.id, status=job.state, progress=progress, model=None, error=None)


async def _view(queue: JobQueue, job: Job) -> JobView:
    directory = queue.directory(job)
    # Where another machine runs it, there is only what the database knows.
    done = await asyncio.to_thread(last_step, directory.metrics) if directory else None
    until = job.finished or time.time()
    run = f"{job.agent}/{job.run_id}" if job.run_id else None
    served = job.state is State.SUCCEEDED and directory is not None and directory.adapter.is_dir()
    return JobView(
        job_id=job.id,
        status=job.state,
        strategy=job.strategy,
        created=job.created,
        started=job.started,
        finished=job.finished,
        cancelling=job.cancel and not job.state.final,
        progress=Progress(
            step=done.step if done else job.reached,
            of=job.steps,
            reward=done.reward if done else None,
            seconds=max(0.0, until - job.started) if job.started else 0.0,
        ),
        run=run,
        model=run if served else None,
        result=JobResult.model_validate(job.result) if job.result else None,
        error=job.error,
        notes=job.notes,
    )


def _queue(call: Call) -> JobQueue:
    queue: JobQueue = call.services.jobs
    return queue


def _owner(call: Call) -> str | None:
    """Whose jobs the caller sees; None: everybody's."""
    return None if call.key.may(Scope.ADMIN) else call.key.owner


def _job_id(call: Call) -> str:
    job_id = call.path["job_id"]
    if not JOB_ID.fullmatch(job_id):
        raise ApiError(404, "not_found", "there is no such job")
    return job_id


async def _job(call: Call) -> Job:
    return await _queue(call).get(_job_id(call), _owner(call))

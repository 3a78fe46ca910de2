"""Runs one job at a time, of all servers that share the database."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.runs.directory import RunDirectory
from grpo_host.serving.jobs.child import JOB_YAML
from grpo_host.serving.jobs.plan import with_output
from grpo_host.serving.jobs.process import Command, JobProcess
from grpo_host.serving.jobs.progress import last_step, result_of
from grpo_host.serving.jobs.record import Job, State
from grpo_host.serving.jobs.store import JobStore, QueueFullError
from grpo_host.serving.services import Part
from grpo_host.utils.atomic import write_text
from grpo_sdk.errors import GrpoError, RunError

if TYPE_CHECKING:
    from grpo_host.serving.jobs.plan import Plan
    from grpo_host.serving.jobs.request import TrainRequest

logger = logging.getLogger("grpo_host.serving.jobs")

ATTEMPTS = 3
"""How often a job that gets no further is begun."""
BUSY_RETRY_SECONDS = 60.0
LATE_SECONDS = 3.0
"""How long a process may take to stop once the server has no more time."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds."""

    look: float = 0.5
    """Between two looks for a job, for a process that has ended and for somebody who wants to cancel."""
    stop: float = 60.0
    """How long a process that was asked to stop may take to save where it stands."""


@dataclass(slots=True)
class _Attempt:
    """The job that runs here."""

    job: Job
    holder: str
    directory: RunDirectory
    process: JobProcess
    taken: float
    """When the place was taken, by this process's clock."""
    cancelled: bool = False
    asked: float | None = None
    """When it was asked to stop."""
    lost: bool = False
    """The place is somebody else's."""


class JobQueue(Part):
    """The training jobs of a server.

    Whoever holds the place (see ``JobStore``) runs the next job as a process of its own and renews the
    lease meanwhile. If it cannot renew it, it ends the process before the lease lapses; and the run
    directory's lock keeps a second process out where both fail: no job is run twice at once.
    """

    def __init__(
        self,
        store: JobStore,
        plan: Plan,
        runs: Path,
        command: Command,
        *,
        max_queued: int = 16,
        timing: Timing | None = None,
    ) -> None:
        self.store = store
        self.watched = 0
        """Streams of events that are open."""
        self._plan = plan
        self._runs = runs.absolute()
        self._command = command
        self._max_queued = max_queued
        self._timing = timing or Timing()
        self._wake = asyncio.Event()
        self._ending = False
        self._late = False
        self._task: asyncio.Task[None] | None = None

    async def submit(self, owner: str, request: TrainRequest) -> Job:
        """Put a job into the queue. Raises ``ApiError``."""
        plan = await asyncio.to_thread(self._plan.make, request)
        try:
            job = await self.store.submit(owner, plan, max_queued=self._max_queued)
        except QueueFullError:
            raise ApiError(
                429,
                "queue_full",
                f"{self._max_queued} jobs wait already; try again later",
                retry_after=BUSY_RETRY_SECONDS,
            ) from None
        self._wake.set()
        return job

    async def get(self, job_id: str, owner: str | None) -> Job:
        """The job. ``owner`` None: anybody's. Raises ``ApiError`` if ``owner`` has no such job."""
        job = await self.store.get(job_id, owner)
        if job is None:
            raise ApiError(404, "not_found", "there is no such job")
        return job

    async def list(
        self, owner: str | None, *, state: State | None = None, limit: int = 20, offset: int = 0
    ) -> Sequence[Job]:
        """Jobs, the newest first."""
        return await self.store.list(owner, state=state, limit=limit, offset=offset)

    async def cancel(self, job_id: str, owner: str | None) -> Job:
        """Cancel a job, or have it cancelled soon. Raises ``ApiError`` if it has ended otherwise."""
        await self.get(job_id, owner)
        job = await self.store.ask_to_cancel(job_id)
        if job is None or (job.state.final and job.state is not State.CANCELLED):
            raise ApiError(409, "finished", "the job has ended already")
        self._wake.set()
        return job

    def directory(self, job: Job) -> RunDirectory | None:
        """Where it runs or ran; None before."""
        return RunDirectory(self._runs / job.agent / job.run_id) if job.run_id else None

    async def start(self) -> None:
        self._ending = self._late = False
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._serve(), name="training-jobs")

    async def drain(self) -> None:
        """Take no other job; have the one that runs save a checkpoint and stop. A server goes on with it."""
        self._ending = True
        self._wake.set()
        if self._task is not None:
            await asyncio.shield(self._task)

    async def close(self) -> None:
        self._ending = True
        if self._task is None:
            return
        # What has not stopped while draining is given little more time.
        self._late = True
        self._wake.set()
        task, self._task = self._task, None
        await task

    async def _serve(self) -> None:
        while not self._ending:
            try:
                if await self.store.something_to_do() and (taken := await self.store.take()):
                    await self._run(*taken)
                    continue
            except GrpoError as problem:
                logger.warning("training jobs: %s", problem)
            except Exception:
                logger.exception("training jobs: a job could not be run or settled")
            await self._pause()

    async def _pause(self) -> None:
        """Until the next look, or something new."""
        try:
            async with asyncio.timeout(self._timing.look):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _run(self, job: Job, holder: str) -> None:
        taken = time.monotonic()
        directory = self.directory(job)
        if directory is None:
            raise RunError(f"the job {job.id} was taken without a run directory")
        if job.cancel:
            await self.store.settle(holder, State.CANCELLED)
            return
        reached = await asyncio.to_thread(_reached, directory)
        if why := _cannot_go_on(job, directory, max(reached, job.reached)):
            logger.warning("the job %s cannot go on: %s", job.id, why)
            await self.store.settle(holder, State.INTERRUPTED, error=why)
            return
        try:
            config = with_output(await self.store.config(job.id), self._runs)
            await asyncio.to_thread(_prepare, directory, config)
            process = JobProcess(self._command(directory.path), directory.path)
        except OSError as problem:
            logger.error("the job %s cannot start: %s", job.id, problem)
            why = f"its process cannot be started: {problem.strerror}"
            await self.store.settle(holder, State.FAILED, error=why)
            return
        attempt = _Attempt(job, holder, directory, process, taken)
        logger.info("the job %s runs in %s (attempt %d)", job.id, directory.path, job.attempts)
        try:
            await self._watch(attempt)
        finally:
            await asyncio.to_thread(process.kill)  # itself, or what it has left
        await self._settle(attempt)

    async def _watch(self, attempt: _Attempt) -> None:
        """Until the process has ended."""
        process, renewed = attempt.process, attempt.taken
        while process.exit_code() is None:
            began = time.monotonic()
            if began - renewed > self.store.lease / 4 and await self._renew(attempt):
                renewed = began
            if attempt.lost or time.monotonic() - renewed > self.store.lease * 0.7:
                # Somebody else has it, or may take it soon.
                logger.error("the job %s is let go: its lease could not be renewed", attempt.job.id)
                attempt.lost = True
                return
            await self._stop_where_wanted(attempt)
            await self._pause()

    async def _renew(self, attempt: _Attempt) -> bool:
        reached = await asyncio.to_thread(_reached, attempt.directory)
        try:
            async with asyncio.timeout(self.store.lease / 4):
                attempt.lost = not await self.store.renew(attempt.holder, reached=reached)
        except (GrpoError, TimeoutError) as problem:
            logger.warning("the lease of the job %s was not renewed: %s", attempt.job.id, problem)
            return False
        return not attempt.lost

    async def _stop_where_wanted(self, attempt: _Attempt) -> None:
        now = time.monotonic()
        if not attempt.cancelled:
            try:
                async with asyncio.timeout(self.store.lease / 4):
                    attempt.cancelled = await self.store.wants_cancel(attempt.job.id)
            except (GrpoError, TimeoutError):
                pass  # the lease says whether this lasts
        if (attempt.cancelled or self._ending) and attempt.asked is None:
            attempt.asked = now
            attempt.process.ask_to_stop()
        if attempt.asked is not None:
            seconds = LATE_SECONDS if self._late else self._timing.stop
            if now - attempt.asked > seconds:
                await asyncio.to_thread(attempt.process.kill)

    async def _settle(self, attempt: _Attempt) -> None:
        """Say how it ended."""
        if attempt.lost:
            return
        job, code = attempt.job, attempt.process.exit_code()
        reached = await asyncio.to_thread(_reached, attempt.directory)
        error, result, counts = None, None, True
        if code == 0:
            state = State.SUCCEEDED
            result = await asyncio.to_thread(result_of, attempt.directory)
        elif attempt.cancelled:
            state = State.CANCELLED
        elif attempt.asked is not None:
            state, counts = State.QUEUED, False
        elif code is not None and (code < 0 or code > 128):
            # Not its own doing: the machine was out of memory, or an operator ended it.
            state = State.QUEUED
            logger.warning("the job %s was ended by a signal (exit code %d)", job.id, code)
        else:
            state = State.FAILED
            error = await asyncio.to_thread(attempt.process.error)
            error = error or "its process ended unexpectedly; the server's operator finds why in its log"
            logger.warning("the job %s failed (exit code %s): %s", job.id, code, error)
        settled = await self.store.settle(
            attempt.holder, state, error=error, result=result, reached=reached, counts=counts
        )
        logger.info("the job %s: %s", job.id, state if settled else "taken by another server")


def _reached(directory: RunDirectory) -> int:
    done = last_step(directory.metrics)
    return done.step if done else 0


def _cannot_go_on(job: Job, directory: RunDirectory, reached: int) -> str | None:
    """Why a job that was begun before is not begun again; None if it is."""
    if reached > 0 and not directory.path.is_dir():
        return (
            f"the server that ran it is gone, and its run directory {job.agent}/{job.run_id} is not on the "
            "machine that was to go on with it"
        )
    if job.attempts > ATTEMPTS and reached <= job.reached:
        return (
            f"its process, or the server, ended {ATTEMPTS} times before it got beyond step {reached}; "
            "it may need more memory than there is"
        )
    return None


def _prepare(directory: RunDirectory, config: str) -> None:
    """The run directory, with what the job is."""
    directory.path.mkdir(parents=True, exist_ok=True)
    if not (directory.path / JOB_YAML).is_file():
        write_text(directory.path / JOB_YAML, config)

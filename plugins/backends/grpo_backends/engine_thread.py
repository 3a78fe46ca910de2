"""Step a batching engine in a thread, so that each coroutine can await its own request."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

Progress = Callable[[Any], Callable[[], None]]
"""Read an unfinished output in the engine's thread; return the function to call in the event loop."""


class Engine(Protocol):
    """The interface of an engine: the part of ``vllm.v1.engine.llm_engine.LLMEngine`` that is used here.

    ``step`` returns outputs with ``request_id`` and ``finished``, and unfinished ones for streamed
    requests.
    """

    def add_request(self, request_id: str, prompt: Any, params: Any) -> str: ...
    def abort_request(self, request_ids: list[str], internal: bool = False) -> None: ...
    def step(self) -> list[Any]: ...
    def has_unfinished_requests(self) -> bool: ...


@dataclass(slots=True)
class _Job:
    prompt: Any
    params: Any
    future: asyncio.Future[Any]
    progress: Progress | None = None
    id: str = field(default_factory=map(str, count()).__next__)


_Command = Callable[[], None]
_Result = tuple[asyncio.Future[Any], Any, Exception | None]


class EngineThread:
    """Owns an engine from start to stop; every call of the engine happens in one thread.

    The engine's thread pools and process groups belong to the thread that makes them, which is
    why ``make`` runs there too. Requests that arrive in one turn of the event loop enter the
    engine together. ``turns`` is held whenever the engine is made, asked, stepped or ended: engines that
    share something in this process are given the same one.
    """

    def __init__(
        self,
        make: Callable[[], Engine],
        dispose: Callable[[Engine], None],
        turns: AbstractContextManager[object] | None = None,
    ) -> None:
        self._make = make
        self._dispose = dispose
        self._turns = turns or nullcontext()
        self._inbox: SimpleQueue[_Command | None] = SimpleQueue()
        self._pending: list[_Job] = []
        self._under_way: dict[str, _Job] = {}  # the engine's thread alone touches it
        self._engine: Engine | None = None
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    async def start(self) -> None:
        """Make the engine. Raises what ``make`` raises."""
        self._loop = asyncio.get_running_loop()
        ready: ThreadFuture[None] = _uncancelled()
        self._inbox.put(lambda: ready.set_result(None))
        self._ready = ready
        self._thread.start()
        # A daemon thread inside a kernel while the interpreter is torn down can crash it.
        atexit.register(self.stop)
        await asyncio.wrap_future(ready)

    async def generate(self, prompt: Any, params: Any, progress: Progress | None = None) -> Any:
        """The finished output of ``step``; unfinished ones go to ``progress``.

        Cancelling aborts the request. Raises the engine's error for this request, or why the engine died.
        """
        self._check_open()
        job = _Job(prompt, params, self._loop.create_future(), progress)
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            self._inbox.put(lambda: self._abort(job))
            raise

    async def stream(
        self, prompt: Any, params: Any, ids_of: Callable[[Any], Sequence[int]]
    ) -> AsyncGenerator[list[int] | Any, None]:
        """Yield sampled ids as ``step`` gives them (``ids_of`` an output), and last the finished output."""
        fresh: asyncio.Queue[list[int] | None] = asyncio.Queue()
        seen = 0

        def progress(output: Any) -> Callable[[], None]:
            nonlocal seen
            ids = list(ids_of(output)[seen:])  # now: the engine goes on to change it
            seen += len(ids)
            return partial(fresh.put_nowait, ids)

        request = asyncio.ensure_future(self.generate(prompt, params, progress))
        request.add_done_callback(lambda _: fresh.put_nowait(None))
        told = 0
        try:
            while (ids := await fresh.get()) is not None:
                told += len(ids)
                yield ids
            output = await request
        finally:
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        if rest := list(ids_of(output)[told:]):
            yield rest
        yield output

    async def call(self, function: Callable[[Engine], T]) -> T:
        """Run ``function(engine)`` between two steps. Raises what it raises.

        Cancelling stops the waiting, not ``function``.
        """
        self._check_open()
        self._flush()
        done: ThreadFuture[T] = _uncancelled()

        def command() -> None:
            try:
                done.set_result(function(self._living_engine()))
            except BaseException as problem:
                done.set_exception(problem)

        self._inbox.put(command)
        return await asyncio.wrap_future(done)

    def stop(self) -> None:
        """End the engine, and fail the requests that wait. Blocks until it has ended, even by another thread.

        Until then the guard at exit stays: a daemon thread inside of a kernel can crash the interpreter.
        """
        if not self._closed:
            self._closed = True
            self._flush()
            self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()
        atexit.unregister(self.stop)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed; start a new backend")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the engine was started in another event loop; use one loop for all its calls")

    def _flush(self) -> None:
        jobs, self._pending = self._pending, []
        if jobs:
            self._inbox.put(lambda: self._admit(jobs))

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        try:
            with self._turns:
                self._engine = self._make()
        except BaseException as problem:
            self._error = problem
            self._ready.set_exception(problem)
            self._inbox.get()  # the command that would have set it
        while self._serve_inbox():
            if self._busy():
                self._step()
        self._fail(RuntimeError("the engine was closed while this request was under way"))
        if self._engine is not None:
            with self._turns:
                self._dispose(self._engine)
            self._engine = None

    def _busy(self) -> bool:
        return bool(self._under_way) and self._error is None

    def _serve_inbox(self) -> bool:
        """Run waiting commands, or wait for one if there is nothing to step; False: stop."""
        try:
            command = self._inbox.get(block=not self._busy())
            while command is not None:
                try:
                    with self._turns:
                        command()
                except BaseException as problem:
                    self._die(problem)
                command = self._inbox.get_nowait()
        except Empty:
            return True
        return False

    def _living_engine(self) -> Engine:
        if self._error is not None or self._engine is None:
            raise RuntimeError(f"the engine died: {self._error}") from self._error
        return self._engine

    def _admit(self, jobs: list[_Job]) -> None:
        refused = []
        for job in jobs:
            if job.future.cancelled():
                continue
            try:
                self._living_engine().add_request(job.id, job.prompt, job.params)
                self._under_way[job.id] = job
            except Exception as problem:
                refused.append((job.future, None, problem))
        self._deliver(refused)

    def _abort(self, job: _Job) -> None:
        if self._under_way.pop(job.id, None) is not None and self._error is None:
            self._living_engine().abort_request([job.id])

    def _step(self) -> None:
        try:
            with self._turns:
                outputs = self._living_engine().step()
        except BaseException as problem:
            self._die(problem)
            return
        finished = []
        for output in outputs:
            if not output.finished:
                self._tell(output)
            elif job := self._under_way.pop(output.request_id, None):
                finished.append((job.future, output, None))
        self._deliver(finished)

    def _tell(self, output: Any) -> None:
        job = self._under_way.get(output.request_id)
        if job is not None and job.progress is not None:
            with contextlib.suppress(RuntimeError):  # The loop closed: nobody listens any more.
                self._loop.call_soon_threadsafe(job.progress(output))

    def _die(self, problem: BaseException) -> None:
        self._error = problem
        self._fail(RuntimeError(f"the engine died: {type(problem).__name__}: {problem}"))

    def _fail(self, problem: Exception) -> None:
        problem.__cause__ = self._error
        jobs = list(self._under_way.values())
        self._under_way.clear()
        self._deliver([(job.future, None, problem) for job in jobs])

    def _deliver(self, results: Sequence[_Result]) -> None:
        if results:
            try:
                self._loop.call_soon_threadsafe(_settle, results)
            except RuntimeError:
                return  # The loop closed: nobody waits any more.


def _uncancelled() -> ThreadFuture[Any]:
    """A future whose result may be set even if nobody waits for it any more."""
    future: ThreadFuture[Any] = ThreadFuture()
    future.set_running_or_notify_cancel()
    return future


def _settle(results: Sequence[_Result]) -> None:
    for future, output, problem in results:
        if future.done():
            continue
        if problem is not None:
            future.set_exception(problem)
        else:
            future.set_result(output)

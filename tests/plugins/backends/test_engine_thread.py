"""The thread that steps an engine, with an engine that does as it is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from grpo_backends.engine_thread import EngineThread


@dataclass
class Output:
    request_id: str
    prompt: Any
    finished: bool = True
    ids: tuple[int, ...] = ()


class FakeEngine:
    """Ends a request after ``params`` steps of a millisecond; the ids count down to 0."""

    def __init__(self) -> None:
        self.left: dict[str, list[Any]] = {}
        self.aborted: list[str] = []
        self.batches: list[int] = []
        self.threads = {threading.current_thread()}
        self.dies_at: int | None = None

    def add_request(self, request_id: str, prompt: Any, params: Any) -> str:
        self.threads.add(threading.current_thread())
        if params < 0:
            raise ValueError("no such request")
        self.left[request_id] = [params, prompt]
        return request_id

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        self.aborted += request_ids
        for request_id in request_ids:
            del self.left[request_id]

    def has_unfinished_requests(self) -> bool:
        return bool(self.left)

    def step(self) -> list[Output]:
        self.threads.add(threading.current_thread())
        time.sleep(0.001)
        self.batches.append(len(self.left))
        if self.dies_at is not None and len(self.batches) >= self.dies_at:
            raise RuntimeError("the kernel is broken")
        done = []
        for request_id, entry in list(self.left.items()):
            entry[0] -= 1
            ids = (*entry[2:], entry[0])
            entry[2:] = ids
            done.append(Output(request_id, entry[1], entry[0] <= 0, ids))
            if entry[0] <= 0:
                del self.left[request_id]
        return done


def with_thread(use: Callable[[EngineThread, FakeEngine], Awaitable[Any]]) -> Any:
    async def go() -> Any:
        engines: list[FakeEngine] = []

        def make() -> FakeEngine:
            engines.append(FakeEngine())
            return engines[0]

        thread = EngineThread(make, lambda _: None)
        await thread.start()
        try:
            return await use(thread, engines[0])
        finally:
            thread.stop()

    return asyncio.run(go())


def test_concurrent_requests_enter_together_and_each_gets_its_own_answer() -> None:
    async def use(thread: EngineThread, engine: FakeEngine) -> None:
        outputs = await asyncio.gather(*(thread.generate(i, 1 + i % 3) for i in range(300)))
        assert [output.prompt for output in outputs] == list(range(300))
        assert engine.batches[0] == 300
        assert len(engine.threads) == 1

    with_thread(use)


def test_a_refused_request_fails_alone() -> None:
    async def use(thread: EngineThread, engine: FakeEngine) -> None:
        bad, good = await asyncio.gather(
            thread.generate(0, -1), thread.generate(1, 2), return_exceptions=True
        )
        assert isinstance(bad, ValueError)
        assert good.prompt == 1

    with_thread(use)


def test_a_cancelled_request_is_aborted_and_others_go_on() -> None:
    async def use(thread: EngineThread, engine: FakeEngine) -> None:
        endless = asyncio.create_task(thread.generate(0, 10**6))
        other = asyncio.create_task(thread.generate(1, 50))
        await asyncio.sleep(0.01)
        endless.cancel()
        assert (await other).prompt == 1
        with pytest.raises(asyncio.CancelledError):
            await endless
        assert await thread.call(lambda _: engine.has_unfinished_requests()) is False
        assert len(engine.aborted) == 1

    with_thread(use)


def test_a_request_cancelled_before_it_enters_never_does() -> None:
    async def use(thread: EngineThread, engine: FakeEngine) -> None:
        task = asyncio.create_task(thread.generate(0, 10**6))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await thread.call(lambda _: engine.has_unfinished_requests()) is False

    with_thread(use)


def test_an_engine_that_dies_tells_everyone_who_waits_and_everyone_who_comes() -> None:
    async def use(thread: EngineThread, engine: FakeEngine) -> None:
        engine.dies_at = 3
        waiting = await asyncio.gather(*(thread.generate(i, 100) for i in range(5)), return_exceptions=True)
        assert ["the kernel is broken" in str(problem) for problem in waiting] == [True] * 5
        with pytest.raises(RuntimeError, match="the kernel is broken"):
            await asyncio.wait_for(thread.generate(9, 1), 1)
        with pytest.raises(RuntimeError, match="the kernel is broken"):
            await asyncio.wait_for(thread.call(lambda _: None), 1)

    with_thread(use)


def test_an_engine_that_cannot_be_made_says_why_and_can_be_stopped() -> None:
    def make() -> FakeEngine:
        raise OSError("no such model")

    async def go() -> None:
        thread = EngineThread(make, lambda _: None)
        with pytest.raises(OSError, match="no such model"):
            await thread.start()
        thread.stop()

    asyncio.run(go())


def test_stopping_tells_who_waits_and_refuses_who_comes() -> None:
    async def use(thread: EngineThread, engine: FakeEngine) -> None:
        waiting = asyncio.create_task(thread.generate(0, 10**6))
        await asyncio.sleep(0.01)
        thread.stop()
        with pytest.raises(RuntimeError, match="was closed"):
            await asyncio.wait_for(waiting, 1)
        with pytest.raises(RuntimeError, match="is closed"):
            await thread.generate(1, 1)

    with_thread(use)


def test_a_call_runs_between_steps_and_raises_what_it_raises() -> None:
    async def use(thread: EngineThread, engine: FakeEngine) -> None:
        task = asyncio.create_task(thread.generate(0, 20))
        assert await thread.call(lambda e: len(engine.threads)) == 1
        with pytest.raises(ZeroDivisionError):
            await thread.call(lambda _: 1 / 0)
        assert (await task).finished

    with_thread(use)


def test_a_call_whose_caller_leaves_is_still_made_and_the_engine_lives_on() -> None:
    made = []

    async def use(thread: EngineThread, engine: FakeEngine) -> Any:
        def slow(_: Any) -> None:
            time.sleep(0.05)
            made.append(True)

        waiting = asyncio.ensure_future(thread.call(slow))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return (await thread.generate("a", 1)).prompt

    assert with_thread(use) == "a"
    assert made == [True]


def test_a_start_that_is_given_up_can_be_stopped() -> None:
    disposed = []

    def make() -> FakeEngine:
        time.sleep(0.05)
        return FakeEngine()

    async def go() -> None:
        thread = EngineThread(make, disposed.append)
        starting = asyncio.ensure_future(thread.start())
        await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        thread.stop()

    asyncio.run(go())

    assert len(disposed) == 1


def test_an_engine_that_dies_of_an_abort_tells_everyone() -> None:
    async def use(thread: EngineThread, engine: FakeEngine) -> None:
        def refuse(*_: object) -> None:
            raise RuntimeError("no abort")

        engine.abort_request = refuse  # type: ignore[method-assign]
        left, waiting = (asyncio.ensure_future(thread.generate(name, 1000)) for name in "ab")
        await asyncio.sleep(0.01)
        left.cancel()
        with pytest.raises(RuntimeError, match="the engine died: RuntimeError: no abort"):
            await asyncio.wait_for(waiting, 5)

    with_thread(use)


def test_another_event_loop_is_refused() -> None:
    thread = EngineThread(FakeEngine, lambda _: None)
    asyncio.run(thread.start())

    async def from_elsewhere() -> None:
        await thread.generate(0, 1)

    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(from_elsewhere())
    thread.stop()


def ids_of(output: Output) -> tuple[int, ...]:
    return output.ids


def test_a_stream_gives_each_id_once_and_then_the_output() -> None:
    async def use(thread: EngineThread, _: FakeEngine) -> list[Any]:
        return [item async for item in thread.stream("p", 5, ids_of)]

    *pieces, output = with_thread(use)
    assert [id for piece in pieces for id in piece] == [4, 3, 2, 1, 0] == list(output.ids)
    assert len(pieces) > 1


def test_a_stream_that_is_left_early_aborts_its_request() -> None:
    async def use(thread: EngineThread, engine: FakeEngine) -> tuple[list[str], int]:
        stream: Any = thread.stream("p", 10_000, ids_of)
        await anext(stream)
        await stream.aclose()
        await thread.call(lambda _: None)
        return engine.aborted, len(engine.left)

    aborted, left = with_thread(use)
    assert (len(aborted), left) == (1, 0)


def test_a_stream_whose_engine_dies_says_so() -> None:
    async def use(thread: EngineThread, engine: FakeEngine) -> list[Any]:
        engine.dies_at = 3
        return [item async for item in thread.stream("p", 100, ids_of)]

    with pytest.raises(RuntimeError, match="the engine died: RuntimeError: the kernel is broken"):
        with_thread(use)


def test_the_end_of_the_program_waits_for_an_engine_that_a_daemon_thread_is_ending() -> None:
    code = """
import asyncio, threading, time
from grpo_backends.engine_thread import EngineThread

def dispose(engine):
    ending.set()
    time.sleep(0.5)  # as a kernel does, without the interpreter's lock
    print("disposed")

ending = threading.Event()
thread = EngineThread(object, dispose)
asyncio.run(thread.start())
threading.Thread(target=thread.stop, daemon=True).start()
ending.wait()
"""
    assert subprocess.check_output([sys.executable, "-c", code], timeout=60) == b"disposed\n"

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from grpo_host.backends.event_loop import LoopThread


@pytest.fixture
def loop():
    made = LoopThread()
    yield made
    made.close()


async def double(number):
    await asyncio.sleep(0)
    return 2 * number


def test_a_coroutine_gives_its_result_to_a_thread_without_a_loop(loop):
    assert loop.run(double(21)) == 42


def test_it_works_where_an_event_loop_runs_already(loop):
    """``asyncio.run`` fails inside notebooks, so the host owns a loop thread."""

    async def notebook():
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            asyncio.run(asyncio.sleep(0))
        return loop.run(double(21))

    with pytest.warns(RuntimeWarning, match="'sleep' was never awaited"):
        assert asyncio.run(notebook()) == 42


def test_all_coroutines_share_one_loop_in_one_thread(loop):
    async def where():
        return asyncio.get_running_loop(), threading.current_thread()

    assert loop.run(where()) == loop.run(where())
    assert loop.run(where())[1] is not threading.current_thread()


def test_what_a_coroutine_raises_is_raised(loop):
    async def fail():
        raise KeyError("A12")

    with pytest.raises(KeyError, match="A12"):
        loop.run(fail())
    assert loop.run(double(1)) == 2


class Stop(Exception):
    pass


def test_what_the_check_raises_cancels_the_coroutine(loop):
    events = []
    started = threading.Event()

    async def work():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            events.append("closed")

    def check():
        if started.is_set():
            raise Stop

    with pytest.raises(Stop):
        loop.run(work(), check=check)
    deadline = time.monotonic() + 5
    while not events and time.monotonic() < deadline:
        time.sleep(0.01)
    assert events == ["closed"]


def test_the_check_is_called_while_it_waits(loop):
    checks = []
    loop.run(asyncio.sleep(0.5), check=lambda: checks.append(1))
    assert 1 <= len(checks) <= 3


def test_closing_cancels_what_still_runs():
    loop = LoopThread()
    events = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            events.append("closed")

    asyncio.run_coroutine_threadsafe(work(), loop.loop)
    loop.run(asyncio.sleep(0.01))
    loop.close()
    loop.close()
    assert events == ["closed"]
    assert loop.loop.is_closed()


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_a_task_that_leaves_the_program_ends_alone(loop, caplog, end):
    async def leave():
        raise end(3)

    async def both():
        leaving = asyncio.ensure_future(leave())
        return await asyncio.gather(leaving, double(21), return_exceptions=True)

    left, doubled = loop.run(both())
    assert isinstance(left, end)
    assert doubled == 42
    assert loop.run(double(1)) == 2
    assert f"a task ended with {end.__name__}: 3; the others go on" in caplog.text


def test_the_end_of_the_program_waits_for_a_loop_that_is_being_ended():
    code = """
import asyncio
from grpo_host.backends.event_loop import LoopThread

async def last():
    await asyncio.sleep(0.5)
    print("closed")

LoopThread().end_with(last)
"""
    assert subprocess.check_output([sys.executable, "-c", code], timeout=60) == b"closed\n"

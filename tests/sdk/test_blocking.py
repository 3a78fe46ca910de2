from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading

import pytest

from grpo_sdk.blocking import call_blocking

REQUEST = contextvars.ContextVar("REQUEST", default="none")


def test_the_result_and_the_arguments_go_through():
    assert asyncio.run(call_blocking(lambda a, *, b: a + b, 1, b=2)) == 3


def test_an_exception_goes_through():
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        asyncio.run(call_blocking(fail))


def test_the_context_is_seen_in_the_thread():
    async def ask() -> str:
        REQUEST.set("mine")
        return await call_blocking(REQUEST.get)

    assert asyncio.run(ask()) == "mine"


def test_fifty_hung_calls_do_not_block_the_next():
    release = threading.Event()

    async def work() -> None:
        hung = [asyncio.ensure_future(call_blocking(release.wait)) for _ in range(50)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(call_blocking(lambda: 7), 120) == 7
        for task in hung:
            task.cancel()
        await asyncio.gather(*hung, return_exceptions=True)

    try:
        asyncio.run(work())
    finally:
        release.set()


def test_a_call_that_ends_after_its_loop_is_ignored():
    release, ended = threading.Event(), threading.Event()

    def late() -> None:
        release.wait(5)
        ended.set()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call_blocking(late), 0.01)

    asyncio.run(give_up())
    release.set()
    assert ended.wait(5)


def test_the_interpreter_does_not_wait_for_hung_calls():
    code = (
        "import asyncio, time\n"
        "from grpo_sdk.blocking import call_blocking\n"
        "async def main():\n"
        "    try: await asyncio.wait_for(call_blocking(time.sleep, 60), 0.05)\n"
        "    except TimeoutError: print('given up')\n"
        "asyncio.run(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "given up\n"

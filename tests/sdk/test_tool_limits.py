"""Tool calls within limits of time, output and parallelism."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from tests.sdk.calling import call, one

from grpo_sdk import tool_call
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import ToolLimits, as_tool


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_hanging_tool_is_given_up(kind):
    over = threading.Event()

    def hang() -> str:
        """Hang."""
        over.wait()
        return "late"

    async def hang_async() -> str:
        """Hang."""
        await asyncio.Event().wait()
        return "late"

    function = hang if kind == "sync" else hang_async
    content, run = await one([function], function.__name__, {}, ToolLimits(seconds=0.05))
    over.set()
    assert content == "Error: no answer within 0.05 s"
    assert run.error == "no answer within 0.05 s"


async def test_a_huge_output_is_cut_and_marked():
    def flood() -> str:
        """Flood."""
        return "x" * 10_000_000

    content, run = await one([flood], "flood", {}, ToolLimits(output_chars=100))
    assert content == "x" * 100 + "\n[9999900 characters left out]"
    assert run.truncated
    assert run.error is None


async def test_parallel_calls_are_answered_in_their_order():
    ended = []

    async def wait(place: int) -> int:
        """End after those that were called later, which have to run meanwhile."""
        while len(ended) < 2 - place:  # noqa: ASYNC110 - an event more would tell nothing more
            await asyncio.sleep(0)
        ended.append(place)
        return place

    answers = await call([wait], *[("wait", {"place": place}) for place in range(3)])
    assert ended == [2, 1, 0]
    assert [message["content"] for message, _ in answers] == ["0", "1", "2"]
    assert [message["tool_call_id"] for message, _ in answers] == ["call_0", "call_1", "call_2"]


async def test_no_more_calls_run_at_once_than_allowed():
    running = most = 0

    async def work() -> int:
        """Work."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return most

    await call([work], *[("work", {})] * 10, limits=ToolLimits(parallel=3))
    assert most == 3


@pytest.mark.parametrize("form", [lambda function: function, as_tool], ids=["function", "LangChain's"])
async def test_a_tool_that_catches_its_cancellation_and_goes_on_is_left_at_its_limit(monkeypatch, form):
    monkeypatch.setattr("grpo_sdk.deadline.GRACE_SECONDS", 0.02)

    async def stubborn() -> str:
        """Never end."""
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(5)

    limits = ToolLimits(seconds=0.02)
    [(_, record)] = await Toolbox([form(stubborn)], limits).run([tool_call("stubborn", "{}", "c")])
    assert record.error == "no answer within 0.02 s"


async def test_cancellation_goes_through():
    async def forever() -> str:
        """Never end."""
        await asyncio.sleep(60)
        return ""

    async def cancel() -> bool:
        task = asyncio.ensure_future(Toolbox([forever]).run([tool_call("forever", "{}", "c")]))
        await asyncio.sleep(0.01)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return True
        return False

    assert await cancel()


async def test_a_tool_that_leaves_the_program_does_not():
    async def leave() -> str:
        """Leave."""
        raise SystemExit(3)

    text, run = await one([leave], "leave", {})
    assert text == "Error: RuntimeError: SystemExit: 3"
    assert run.error == "RuntimeError: SystemExit: 3"

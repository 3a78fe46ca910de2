"""An answer as it comes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from grpo_host.agents.streaming import astreamed


async def test_what_is_told_from_any_thread_comes_before_the_result_and_in_order():
    async def ask(on_text):
        on_text("a")
        await asyncio.to_thread(on_text, "b")
        on_text("c")
        return 3

    async def scenario():
        return [piece async for piece in astreamed(ask)]

    assert await scenario() == ["a", "b", "c", 3]


async def test_what_fails_is_raised_behind_what_was_told():
    async def ask(on_text):
        on_text("a")
        raise LookupError("gone")

    told = astreamed(ask)
    assert await anext(told) == "a"
    with pytest.raises(LookupError, match="gone"):
        await anext(told)


async def test_leaving_half_way_ends_the_answer_before_it_returns():
    ended = []

    async def ask(on_text):
        on_text("a")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async with aclosing(astreamed(ask)) as told:
        assert await anext(told) == "a"
    assert ended == [True]

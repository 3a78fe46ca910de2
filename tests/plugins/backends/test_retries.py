"""When a provider's call is tried again, and after how long."""

from __future__ import annotations

import asyncio
import random

import pytest

from grpo_backends.errors import PassingError, ProviderError
from grpo_backends.retries import passing, retried


@pytest.fixture
def pauses(monkeypatch):
    """The seconds that were slept, without sleeping."""
    slept: list[float] = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return slept


def failing(times, problem):
    """A call that raises ``problem`` the first ``times``, and how often it was called."""
    calls: list[int] = []

    async def call():
        calls.append(1)
        if len(calls) <= times:
            raise problem
        return "an answer"

    return call, calls


async def test_a_failure_that_passes_is_not_seen(pauses):
    call, calls = failing(2, PassingError("busy"))
    assert await retried(call, 3) == "an answer"
    assert len(calls) == 3


async def test_after_the_last_attempt_its_own_failure_is_raised(pauses):
    call, calls = failing(99, PassingError("busy"))
    with pytest.raises(PassingError, match="busy"):
        await retried(call, 2)
    assert (len(calls), len(pauses)) == (3, 2)


@pytest.mark.parametrize("problem", [ProviderError("no such model", status=404), ValueError("ours")])
async def test_a_lasting_failure_is_raised_at_once(pauses, problem):
    call, calls = failing(99, problem)
    with pytest.raises(type(problem)):
        await retried(call, 3)
    assert (len(calls), pauses) == (1, [])


async def test_pauses_grow_up_to_a_minute(pauses):
    call, _ = failing(10, PassingError("busy"))
    await retried(call, 10)
    for number, seconds in enumerate(pauses):
        longest = min(60.0, 0.5 * 2**number)
        assert 0.75 * longest <= seconds <= 1.25 * longest


async def test_processes_that_are_seeded_alike_do_not_try_again_together(pauses):
    for _ in range(2):
        random.seed(7)
        await retried(failing(5, PassingError("busy"))[0], 5)
    assert pauses[:5] != pauses[5:]


async def test_a_provider_that_asks_to_wait_is_given_that_time(pauses):
    call, _ = failing(1, passing("busy", "here", 429, "17.5"))
    await retried(call, 3)
    assert pauses == [17.5]


@pytest.mark.parametrize("header", [None, "", "0", "-3", "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_a_retry_after_that_names_no_seconds_leaves_the_pause_to_us(pauses, header):
    call, _ = failing(1, passing("busy", "here", 429, header))
    await retried(call, 3)
    assert 0.375 <= pauses[0] <= 0.625


async def test_a_caller_that_is_out_of_time_ends_the_pause():
    async def scenario():
        call, calls = failing(99, PassingError("busy", retry_after=50))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await retried(call, 3)
        return calls

    assert len(await scenario()) == 1

"""A time limit within a task."""

import asyncio
import contextlib
import gc
import threading
import time
import weakref

import pytest

from grpo_sdk.deadline import Deadline, Leavable


async def test_what_takes_longer_ends_in_a_timeout():
    with pytest.raises(TimeoutError), Deadline(0.01) as limit:
        await asyncio.sleep(5)
    assert limit.expired()
    await asyncio.sleep(0)  # nothing of the cancellation is left
    assert asyncio.current_task().cancelling() == 0


async def test_what_is_quicker_goes_on():
    async def scenario():
        with Deadline(5) as limit:
            await asyncio.sleep(0)
        return limit.expired()

    assert not await scenario()


async def test_the_outer_of_two_is_the_one_that_expires():
    async def scenario():
        with pytest.raises(TimeoutError), Deadline(0.01) as outer, Deadline(5) as inner:
            await asyncio.sleep(5)
        return outer.expired(), inner.expired()

    assert await scenario() == (True, False)


async def test_a_cancellation_from_outside_stays_one():
    async def work():
        with Deadline(5):
            await asyncio.sleep(5)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_blocks_own_timeout_error_is_told_apart():
    async def scenario():
        limit = Deadline(5)
        with pytest.raises(TimeoutError, match="mine"), limit:
            raise TimeoutError("mine")
        return limit.expired()

    assert not await scenario()


async def test_a_deadline_may_be_given_more_time_when_it_is_up():
    asked = []

    async def work():
        def more():
            asked.append(time.monotonic())
            return 0.05 if len(asked) < 3 else 0.0

        with Deadline(0.05, more=more):
            await asyncio.sleep(5)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await work()
    assert len(asked) == 3
    assert time.monotonic() - began > 0.14


async def leaves():
    raise SystemExit(3)


async def awaits_what_was_cancelled():
    inner = asyncio.ensure_future(asyncio.sleep(5))
    inner.cancel()
    await inner


@pytest.mark.parametrize(
    ("block", "said"),
    [(leaves, "SystemExit: 3"), (awaits_what_was_cancelled, "it awaited something that was cancelled")],
)
async def test_what_would_end_its_callers_too_is_an_error_of_the_block(block, said):
    async def scenario():
        with pytest.raises(RuntimeError, match=said), Deadline(5):
            await block()
        return "goes on"

    assert await scenario() == "goes on"


def test_a_keyboard_interrupt_in_another_thread_than_the_main_one_is_an_error_of_the_block():
    found = []

    async def scenario():
        with pytest.raises(RuntimeError, match="KeyboardInterrupt: 3") as error, Deadline(5):
            raise KeyboardInterrupt(3)
        found.append(error)

    thread = threading.Thread(target=lambda: asyncio.run(scenario()))
    thread.start()
    thread.join()
    assert found


async def test_a_cancellation_from_outside_is_not_taken_for_the_blocks_own():
    async def work():
        asyncio.current_task().cancel()  # as a signal's handler would, just before
        with Deadline(5):
            await asyncio.sleep(5)

    with pytest.raises(asyncio.CancelledError):
        await work()


async def stubborn():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(5)


async def more_stubborn():
    while True:
        try:  # noqa: SIM105
            await asyncio.sleep(5)
        except:  # noqa: E722
            pass


@pytest.mark.filterwarnings(
    "ignore:coroutine ignored GeneratorExit", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("work", [stubborn, more_stubborn])
async def test_a_coroutine_that_catches_its_cancellation_and_goes_on_is_left(monkeypatch, work):
    monkeypatch.setattr("grpo_sdk.deadline.GRACE_SECONDS", 0.02)
    with pytest.raises(TimeoutError), Deadline(0.01):
        await Leavable(work())
    assert asyncio.current_task().cancelling() == 0


async def test_what_is_cancelled_may_clean_up(monkeypatch):
    monkeypatch.setattr("grpo_sdk.deadline.GRACE_SECONDS", 5)
    cleaned = []

    async def tidy():
        try:
            await asyncio.sleep(5)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    with pytest.raises(TimeoutError), Deadline(0.01):
        await Leavable(tidy())
    assert cleaned


async def test_a_plugins_own_time_limits_are_its_own():
    async def retries():
        for _ in range(3):
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(5)
            except TimeoutError:
                continue
        return "done"

    with Deadline(5):
        assert await Leavable(retries()) == "done"


async def test_what_is_no_coroutine_can_be_awaited_too():
    future = asyncio.get_running_loop().create_future()
    future.set_result(3)
    assert await Leavable(future) == 3


class LostError(Exception):
    """What the other side failed with."""


def failing():
    answer = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(answer.set_exception, LostError())
    return answer


async def fails_elsewhere():
    await failing()


async def test_what_failed_within_a_limit_is_freed_without_the_collector():
    gc.disable()
    try:
        with contextlib.suppress(LostError), Deadline(5):
            try:
                await Leavable(fails_elsewhere())
            except LostError as problem:
                lost = weakref.ref(problem)
                raise
        await asyncio.sleep(0)
        assert lost() is None
    finally:
        gc.enable()


async def test_a_task_that_was_cancelled_within_a_limit_is_freed_without_the_collector():
    async def waits():
        limit = Deadline(5)
        with limit:
            await asyncio.sleep(5)

    gc.disable()
    try:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        gone = weakref.ref(task)
        del task
        await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()

"""The gate: a limit that can be changed while it holds."""

import asyncio

import pytest

from grpo_host.rollouts.concurrency import Gate


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def holder(gate: Gate, inside: list[int], name: int, leave: asyncio.Event) -> None:
    await gate.acquire()
    inside.append(name)
    await leave.wait()
    gate.release()


def test_no_more_than_the_limit_are_inside_and_the_rest_come_in_order():
    async def scenario():
        gate, inside, leave = Gate(2), [], asyncio.Event()
        tasks = [asyncio.create_task(holder(gate, inside, n, leave)) for n in range(4)]
        await settle()
        assert inside == [0, 1]
        assert gate.held == 2
        leave.set()
        await asyncio.gather(*tasks)
        assert inside == [0, 1, 2, 3]
        assert gate.held == 0

    asyncio.run(scenario())


def test_a_raised_limit_lets_waiting_holders_in_at_once():
    async def scenario():
        gate, inside, leave = Gate(1), [], asyncio.Event()
        tasks = [asyncio.create_task(holder(gate, inside, n, leave)) for n in range(3)]
        await settle()
        gate.limit = 3
        await settle()
        assert inside == [0, 1, 2]
        leave.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_a_lowered_limit_counts_as_holders_leave():
    async def scenario():
        gate = Gate(2)
        await gate.acquire()
        await gate.acquire()
        gate.limit = 1
        waiting = asyncio.create_task(gate.acquire())
        gate.release()
        await settle()
        assert not waiting.done()
        gate.release()
        await asyncio.wait_for(waiting, 1)

    asyncio.run(scenario())


def test_a_cancelled_waiter_takes_no_place():
    async def scenario():
        gate = Gate(1)
        await gate.acquire()
        first, second = (asyncio.create_task(gate.acquire()) for _ in range(2))
        await settle()
        first.cancel()
        await settle()
        gate.release()
        await asyncio.wait_for(second, 1)
        assert gate.held == 1

    asyncio.run(scenario())


def test_a_waiter_cancelled_as_it_is_let_in_passes_its_place_on():
    async def scenario():
        gate = Gate(1)
        await gate.acquire()
        first, second = (asyncio.create_task(gate.acquire()) for _ in range(2))
        await settle()
        gate.release()
        first.cancel()
        await asyncio.wait_for(second, 1)
        assert gate.held == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ValueError, match="at least one must be let in"):
        Gate(limit)

"""Who goes to the database together, and that nobody fails for another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from grpo_host.storage.database import StorageError
from grpo_host.storage.groups import LARGEST, Groups


class Work:
    """Doubles numbers, and remembers which came together; while it is ``held`` it does not answer."""

    def __init__(self, spoils: Any = None, problem: Exception | None = None) -> None:
        self.groups: list[list[int]] = []
        self.held = asyncio.Event()
        self.held.set()
        self._spoils, self._problem = spoils, problem

    async def __call__(self, asked: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(asked))
        await self.held.wait()
        if self._spoils in asked:
            assert self._problem is not None
            raise self._problem
        return [KeyError(number) if number < 0 else 2 * number for number in asked]


async def ask(groups: Groups[int, int], *numbers: int) -> list[int | BaseException]:
    return await asyncio.gather(*map(groups.ask, numbers), return_exceptions=True)


async def test_those_who_ask_at_the_same_time_go_together_in_their_order() -> None:
    work = Work()
    assert await ask(Groups(work, 1), 3, 1, 2) == [6, 2, 4]
    assert work.groups == [[3, 1, 2]]


async def test_who_asks_while_others_are_under_way_goes_with_the_next() -> None:
    work = Work()
    groups = Groups(work, 1)
    work.held.clear()
    first = asyncio.create_task(ask(groups, 1))
    await asyncio.sleep(0.01)
    more = [asyncio.create_task(ask(groups, number)) for number in (2, 3)]
    await asyncio.sleep(0.01)
    assert work.groups == [[1]]
    work.held.set()
    assert await asyncio.gather(first, *more) == [[2], [4], [6]]
    assert work.groups == [[1], [2, 3]]


async def test_as_many_groups_as_there_are_places_are_under_way() -> None:
    work = Work()
    groups = Groups(work, 2)
    work.held.clear()
    tasks = []
    for number in range(4):
        tasks.append(asyncio.create_task(ask(groups, number)))
        await asyncio.sleep(0.01)
    assert work.groups == [[0], [1]]
    work.held.set()
    await asyncio.gather(*tasks)
    assert work.groups == [[0], [1], [2, 3]]


async def test_a_group_has_a_largest_size() -> None:
    work = Work()
    await ask(Groups(work, 1), *range(LARGEST + 1))
    assert [len(group) for group in work.groups] == [LARGEST, 1]


async def test_each_is_told_what_is_wrong_with_its_own() -> None:
    good, bad = await ask(Groups(Work(), 1), 1, -1)
    assert good == 2
    assert isinstance(bad, KeyError)


async def test_what_one_spoils_the_others_get_all_the_same() -> None:
    work = Work(spoils=2, problem=ValueError("two"))
    one, two, three = await ask(Groups(work, 1), 1, 2, 3)
    assert (one, three) == (2, 6)
    assert isinstance(two, ValueError)


@pytest.mark.parametrize("wrapped", [True, False])
async def test_a_database_that_does_not_answer_is_not_asked_again_for_each(wrapped: bool) -> None:
    problem: Exception = OperationalError("SELECT", {}, Exception("locked"))
    if wrapped:
        told = StorageError("the database does not answer")
        told.__cause__, problem = problem, told
    work = Work(spoils=2, problem=problem)
    assert await ask(Groups(work, 1), 1, 2) == [problem, problem]
    assert len(work.groups) == 1


async def test_who_leaves_before_it_is_begun_has_asked_nothing_and_who_leaves_later_takes_nobody_along() -> (
    None
):
    work = Work()
    groups = Groups(work, 1)
    work.held.clear()
    early = [asyncio.create_task(groups.ask(number)) for number in (1, 2)]
    await asyncio.sleep(0.01)
    late = [asyncio.create_task(groups.ask(number)) for number in (3, 4)]
    await asyncio.sleep(0.01)
    early[0].cancel()
    late[0].cancel()
    await asyncio.sleep(0.01)
    work.held.set()
    assert await early[1] == 4
    assert await late[1] == 8
    assert work.groups == [[1, 2], [4]]


def test_groups_serve_again_after_a_loop_that_ended_meanwhile() -> None:
    work = Work()
    groups = Groups(work, 1)
    work.held.clear()

    async def leave() -> None:
        asyncio.create_task(groups.ask(1))  # noqa: RUF006 - the loop ends it
        await asyncio.sleep(0.01)

    asyncio.run(leave())
    work.held = asyncio.Event()
    work.held.set()
    assert asyncio.run(ask(groups, 2)) == [4]

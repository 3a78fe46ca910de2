"""Turns: one thread at a time, in the order in which they came; and engines that take them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial

from grpo_backends.engine_thread import EngineThread
from grpo_backends.turns import Turns


def at_once(*work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_nobody_waits_for_more_than_a_turn_of_another() -> None:
    turns, told = Turns(), []
    both = threading.Barrier(2)

    def work(name: str) -> None:
        both.wait()
        for _ in range(50):
            with turns:
                told.append(name)
                threading.Event().wait(0.001)
                told.append(name)

    at_once(partial(work, "a"), partial(work, "b"))
    assert told[::2] == told[1::2], "one turn within another"
    order = "".join(told[::2])
    while_both = order[max(map(order.index, "ab")) : min(map(order.rindex, "ab")) + 1]
    assert "aaa" not in while_both, order
    assert "bbb" not in while_both, order


def test_a_turn_that_fails_lets_the_next_one_go_on() -> None:
    turns = Turns()

    def fail() -> None:
        try:
            with turns:
                raise RuntimeError("the kernel is broken")
        except RuntimeError:
            pass

    at_once(fail, fail)
    with turns:
        pass


class Shared:
    """Engines that note if two of them work at once."""

    working = 0
    clashes = 0

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.alone(lambda: None)

    def alone(self, work: Callable[[], object]) -> None:
        Shared.working += 1
        threading.Event().wait(0.002)
        Shared.clashes += Shared.working > 1
        work()
        Shared.working -= 1

    def add_request(self, request_id: str, prompt: object, params: object) -> str:
        self.alone(lambda: self.asked.append(request_id))
        return request_id

    def step(self) -> list[object]:
        self.alone(lambda: None)
        done = [type("Output", (), {"request_id": name, "finished": True}) for name in self.asked[:1]]
        del self.asked[:1]
        return done

    def has_unfinished_requests(self) -> bool:
        return bool(self.asked)

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        raise AssertionError("nobody leaves")


def test_engines_with_the_same_turns_are_made_asked_stepped_and_ended_one_at_a_time() -> None:
    async def use() -> None:
        turns = Turns()
        threads = [EngineThread(Shared, lambda one: one.alone(lambda: None), turns) for _ in range(2)]
        await asyncio.gather(*(thread.start() for thread in threads))
        await asyncio.gather(*(thread.generate(number, None) for thread in threads for number in range(5)))
        await asyncio.gather(
            *(thread.call(lambda engine: engine.alone(lambda: None)) for thread in threads),
            *(thread.generate("more", None) for thread in threads),
        )
        at_once(*(thread.stop for thread in threads))

    asyncio.run(use())
    assert Shared.clashes == 0

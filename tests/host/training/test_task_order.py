"""Which tasks a step plays: in rounds, by weight, and the same after an interruption."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from grpo_host.training.task_order import TaskOrder
from grpo_sdk import Curriculum, Task, Trajectory
from grpo_sdk.errors import RunError
from grpo_sdk.seeds import derive_seed
from grpo_sdk.testing import make_trajectory

PLAIN = [Task(f"train-{n}") for n in range(5)]
MIXED = [
    Task(f"{kind}/{n}", kind=kind) for kind, count in (("sums", 3), ("trivia", 50)) for n in range(count)
]
GENERATORS = [
    Task(f"{kind}-{n}", kind=kind) for kind, count in (("gcd", 6), ("chess", 2)) for n in range(count)
]


def order(tasks: list[Task], per_step: int = 4, *, weights: dict[str, float] | None = None) -> TaskOrder:
    made = TaskOrder(tasks, per_step, seed=3, weights=weights)
    made.begin(0)
    return made


def steps(made: TaskOrder, first: int, last: int) -> list[str]:
    ids = []
    for done in range(first, last):
        ids += [task.id for task in made.tasks(done)]
        made.observe([])
    return ids


def test_one_environment_is_played_in_the_order_of_earlier_versions() -> None:
    generator, expected = random.Random(derive_seed(3, "task-order")), []
    for _ in range(4):
        round_ = [task.id for task in PLAIN]
        generator.shuffle(round_)
        expected += round_

    assert steps(order(PLAIN), 0, 5) == expected


def test_environments_take_turns_by_weight_however_many_tasks_they_have() -> None:
    ids = steps(order(MIXED, weights={"sums": 2.0, "trivia": 1.0}), 0, 3)

    assert Counter(id_.partition("/")[0] for id_ in ids) == {"sums": 8, "trivia": 4}
    assert set(Counter(id_ for id_ in ids if id_.startswith("sums")).values()) == {2, 3}


def test_the_kinds_of_one_environment_share_by_the_number_of_their_tasks() -> None:
    ids = steps(order(GENERATORS), 0, 2)

    assert Counter(ids) == Counter(task.id for task in GENERATORS)


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_run_that_goes_on_plays_what_it_would_have_played(step: int) -> None:
    weights = {"sums": 1.0, "trivia": 1.5}
    whole = order(MIXED, weights=weights)
    first = steps(whole, 0, step)
    state = whole.state(step)
    rest = steps(whole, step, 6)

    again = TaskOrder(MIXED, 4, seed=3, weights=weights)
    again.begin(step, state)

    assert len(first) == 4 * step
    assert steps(again, step, 6) == rest


def test_a_step_that_is_left_half_way_is_played_again_with_the_same_tasks() -> None:
    made = order(MIXED, weights={"sums": 1.0, "trivia": 1.0})
    steps(made, 0, 2)
    left = made.tasks(2)
    made.observe([])
    state = made.state(2)

    again = TaskOrder(MIXED, 4, seed=3, weights={"sums": 1.0, "trivia": 1.0})
    again.begin(2, state)

    assert again.tasks(2) == left


def test_a_checkpoint_of_an_earlier_version_goes_on_where_it_was() -> None:
    whole = steps(order(PLAIN), 0, 5)
    again = TaskOrder(PLAIN, 4, seed=3)
    again.begin(2)

    assert steps(again, 2, 5) == whole[8:]


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_checkpoint_has_none_of_the_tasks_that_were_given_ahead(step: int) -> None:
    weights = {"sums": 1.0, "trivia": 1.5}
    in_turn = steps(order(MIXED, weights=weights), 0, 6)

    ahead = order(MIXED, weights=weights)
    whole = [task for done in range(3) for task in ahead.tasks(done)]
    for done in range(step):
        ahead.observe([])
        whole += ahead.tasks(done + 3)
    again = TaskOrder(MIXED, 4, seed=3, weights=weights)
    again.begin(step, ahead.state(step))

    assert [task.id for task in whole] == in_turn[: 4 * (step + 3)]
    assert steps(again, step, 6) == in_turn[4 * step :]


def test_steps_are_asked_for_in_order() -> None:
    with pytest.raises(ValueError, match="the tasks after 3 steps are asked for, and 0 were given"):
        order(PLAIN).tasks(3)


class Even(Curriculum):
    """Plays even tasks until it has heard of an episode, then odd ones; then trivia alone."""

    def __init__(self) -> None:
        self.heard = 0

    def observe(self, played: Sequence[Trajectory]) -> None:
        self.heard += len(played)

    def plays(self, task: Task) -> bool:
        return int(task.id.rpartition("/")[2]) % 2 == min(1, self.heard)

    def weights(self, weights: Mapping[str, float]) -> Mapping[str, float]:
        return weights if self.heard < 2 else {"trivia": 1.0}

    def state(self) -> dict[str, Any]:
        return {"heard": self.heard}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.heard = state["heard"]

    def metrics(self) -> Mapping[str, float]:
        return {"heard": self.heard}


def chosen(curriculum: Curriculum) -> TaskOrder:
    return TaskOrder(MIXED, 4, seed=3, weights={"sums": 1.0, "trivia": 1.0}, curriculum=curriculum)


def test_a_curriculum_chooses_the_next_steps_tasks_and_weights() -> None:
    made = chosen(Even())
    made.begin(0)
    given = []
    for done in range(3):
        given.append([task.id for task in made.tasks(done)])
        made.observe([make_trajectory("x")])

    assert [{int(id_.partition("/")[2]) % 2 for id_ in ids} for ids in given] == [{0}, {1}, {1}]
    assert [sum(id_.startswith("trivia") for id_ in ids) for ids in given] == [2, 2, 4]
    assert made.metrics() == {"curriculum/heard": 3.0}


def test_a_run_that_goes_on_goes_on_with_what_its_curriculum_knew() -> None:
    whole = chosen(Even())
    whole.begin(0)
    whole.tasks(0)
    whole.observe([make_trajectory("x")])
    state = whole.state(1)
    expected = whole.tasks(1)

    again = chosen(Even())
    again.begin(1, state)

    assert again.tasks(1) == expected


class Picky(Curriculum):
    def observe(self, played: Sequence[Trajectory]) -> None:
        return

    def plays(self, task: Task) -> bool:
        return False


def test_where_no_task_may_come_all_may() -> None:
    made = chosen(Picky())
    made.begin(0)

    assert len({task.id for task in made.tasks(0)}) == 4


class Broken(Picky):
    def plays(self, task: Task) -> bool:
        raise KeyError("level")

    def weights(self, weights: Mapping[str, float]) -> Mapping[str, float]:
        return {**weights, "trivia": self.weight}

    weight = 1.0


def test_what_a_curriculum_raises_ends_the_run_and_names_it() -> None:
    made = chosen(Broken())
    made.begin(0)

    with pytest.raises(
        RunError, match=r"curriculum Broken: plays\(\): KeyError: 'level' \(.*test_task_order"
    ):
        made.tasks(0)


def test_weights_that_are_none_are_refused() -> None:
    curriculum = Broken()
    curriculum.weight = -1.0
    made = chosen(curriculum)
    made.begin(0)

    with pytest.raises(RunError, match="weights are numbers from 0 on, and not all 0"):
        made.tasks(0)

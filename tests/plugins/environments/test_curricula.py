"""The built-in curricula: when a level is raised, when a task is left out, and what a checkpoint keeps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from grpo_environments.curricula import DropSolved, RaiseLevel
from grpo_sdk import Task, Trajectory
from grpo_sdk.testing import make_trajectory

EASY, HARD = (Task(f"gcd-{level}", {"level": level}, kind="gcd") for level in (0, 1))
OTHER = Task("chess-0", {"level": 0}, kind="chess")


def group(task: Task, *successes: bool, status: str = "completed") -> list[Trajectory]:
    made = make_trajectory("x", status=status)
    return [replace(made, task=task, outcome={"success": success}) for success in successes]


def raising(groups: int = 2) -> RaiseLevel:
    made = RaiseLevel(above=0.6, groups=groups)
    made.begin([HARD, EASY, OTHER])
    return made


def test_the_easiest_level_of_each_kind_comes_first() -> None:
    made = raising()

    assert [made.plays(task) for task in (EASY, HARD, OTHER)] == [True, False, True]


def test_a_level_is_raised_where_its_last_groups_are_solved() -> None:
    made = raising()
    made.observe(group(EASY, True, True))
    assert not made.plays(HARD)

    made.observe(group(EASY, True, False))

    assert [made.plays(task) for task in (EASY, HARD, OTHER)] == [False, True, True]
    assert made.metrics() == {"level/gcd": 1, "level/chess": 0}


def test_only_groups_of_the_present_level_count_and_failures_do_not() -> None:
    made = raising(groups=1)
    made.observe(group(HARD, True))
    made.observe(group(EASY, True, status="failed"))
    assert not made.plays(HARD)

    made.observe(group(EASY, True))
    made.observe(group(HARD, True))  # there is no higher one

    assert made.plays(HARD)


@pytest.mark.parametrize("make", [raising, DropSolved])
def test_what_a_checkpoint_keeps_is_all_that_it_needs(make) -> None:
    whole = make()
    whole.observe(group(EASY, True))
    state = json.loads(json.dumps(whole.state()))
    again = make()
    again.restore(state)

    for made in (whole, again):
        made.observe(group(EASY, True))

    assert again.state() == whole.state()
    assert not again.plays(EASY)


def test_a_task_is_left_out_when_all_solved_it_several_times_in_a_row() -> None:
    made = DropSolved(times=2)
    for successes in ([True, True], [True, False], [True, True]):
        made.observe(group(EASY, *successes))
    assert made.plays(EASY)

    made.observe(group(EASY, True, True))

    assert not made.plays(EASY)
    assert made.metrics() == {"dropped": 1}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RaiseLevel(above=80), "above is 80; it is a share, from 0 to 1"),
        (lambda: RaiseLevel(groups=0), "groups is 0; it must be from 1 to 10000"),
        (lambda: DropSolved(times=0), "times is 0; it must be from 1 to 1000"),
    ],
)
def test_options_out_of_range_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=said):
        make()

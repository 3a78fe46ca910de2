"""Which episodes a training step asks for, and when a run is given up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grpo_host.config.schema import TrainingConfig
from grpo_sdk import Task
from grpo_sdk.errors import RunError
from grpo_sdk.testing import make_trajectory

pytestmark = pytest.mark.model

FEW = [Task("a"), Task("b"), Task("c")]


@pytest.fixture
def rollouts(heavy):
    """The rollouts of a run that has fewer tasks than a step plays; nothing is played."""
    from grpo_host.training.task_order import TaskOrder
    from grpo_host.training.trl.rollouts import GrpoRollouts

    training = TrainingConfig(steps=2, tasks_per_step=4, group_size=2)
    nothing = dict.fromkeys(("engine", "policy", "loop", "reporter", "interrupt"))
    order = TaskOrder(FEW, 4, seed=0)
    order.begin(0)
    return GrpoRollouts(**nothing, training=training, order=order, seed=0)


def test_a_task_that_comes_twice_in_a_step_is_played_anew(rollouts):
    rows = [{"slot": slot} for slot in (0, 0, 1, 1, 2, 2, 3, 3)]
    played = [request for group in rollouts._groups(rows, 1).values() for request in group]

    assert {request.task.id for request in played} == {"a", "b", "c"}
    assert len({request.seed for request in played}) == len({request.id for request in played}) == 8


def test_a_run_in_which_nothing_is_scored_is_given_up_with_the_cause(rollouts):
    failed = replace(make_trajectory("x", status="failed"), reward=None, error="the judge is not there")
    scored = replace(make_trajectory("x"), reward=1.0)

    rollouts._give_up_unscored([failed, failed])
    rollouts._give_up_unscored([failed, failed])
    rollouts._give_up_unscored([failed, scored])  # one is enough to go on
    rollouts._give_up_unscored([failed, failed])
    rollouts._give_up_unscored([failed, failed])
    with pytest.raises(RunError, match=r"not one episode of 3 steps has a reward; .*the judge is not there"):
        rollouts._give_up_unscored([failed, failed])

"""Which episodes a training step asks for, and when a run is given up."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from grpo_host.config.schema import TrainingConfig
from grpo_host.rollouts.engine import RolloutMetrics
from grpo_host.rollouts.overlong import OverlongPenalty
from grpo_host.utils.progress import Reporter
from grpo_sdk import Task
from grpo_sdk.errors import RunError
from grpo_sdk.testing import make_trajectory
from grpo_sdk.trajectory import Ledger, RewardRecord, TokenSequence, Turn

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


class Played:
    """An engine whose groups all have equal rewards, except those of ``good`` tasks."""

    def __init__(self, good):
        self.good = good
        self.agent = SimpleNamespace(backend=None)
        self.batches = []

    async def run(self, groups, *, policy_version, on_episode):
        self.batches.append([[request.id for request in group] for group in groups])
        return [[self._play(request) for request in group] for group in groups], RolloutMetrics()

    def _play(self, request):
        value = float(request.task.id in self.good and request.sample % 2)
        sequence = TokenSequence([2, 3], [0, 1], [0.0, -1.0], [-1, 0])
        return replace(
            make_trajectory("x", task=request.task), id=request.id, reward=value,
            rewards={"r": RewardRecord(value)}, ledger=Ledger([sequence]),
        )  # fmt: skip


class Loop:
    def run(self, coroutine, *, check):
        return asyncio.run(coroutine)


async def synced(backend):
    pass


@pytest.fixture
def step(heavy):
    """``step(good, rounds)``: what the trainer gets from one step of two groups, and the engine."""
    from grpo_host.training.task_order import TaskOrder
    from grpo_host.training.trl.rollouts import GrpoRollouts

    def step(good, rounds):
        training = TrainingConfig(steps=20, tasks_per_step=2, group_size=2, dynamic_sampling=rounds)
        engine, order = Played(good), TaskOrder([Task(name) for name in "abcdef"], 2, seed=0)
        order.begin(0)
        rollouts = GrpoRollouts(
            engine,
            SimpleNamespace(sync=synced, version=1, visible_update=None),
            Loop(),
            Reporter(quiet=True),
            SimpleNamespace(check=lambda: None),
            order,
            training,
            seed=0,
        )
        trainer = SimpleNamespace(
            state=SimpleNamespace(global_step=0),
            args=SimpleNamespace(gradient_accumulation_steps=1, steps_per_generation=1, num_iterations=1),
        )
        played = rollouts([{"slot": slot} for slot in (0, 0, 1, 1)], trainer)
        return SimpleNamespace(played=played, engine=engine, phases=rollouts.phases())

    return step


def test_groups_that_teach_nothing_are_played_anew_on_other_tasks_up_to_the_bound(step):
    done = step(good="", rounds=3)
    assert [len(batch) for batch in done.engine.batches] == [2, 2, 2, 2]
    ids = [id for batch in done.engine.batches for group in batch for id in group]
    assert len(set(ids)) == 16
    first, *others = ({id.split("/")[1] for group in batch for id in group} for batch in done.engine.batches)
    assert all(not first & tasks for tasks in others)
    assert [item.id for item in done.played] == ids[-4:], "the last ones are trained on, as they are"
    assert done.phases["rollouts/replayed_groups"] == 6
    assert done.phases["rollouts/episodes"] == 16, "all that was played counts"


def test_groups_that_teach_something_are_kept(step):
    done = step(good="abcdef", rounds=3)
    assert len(done.engine.batches) == 1
    assert done.phases["rollouts/replayed_groups"] == 0


def test_a_step_that_is_done_again_draws_the_same_tasks(step):
    assert step(good="abc", rounds=4).engine.batches == step(good="abc", rounds=4).engine.batches


def test_the_penalty_for_long_replies_rises_over_the_buffer():
    penalty = OverlongPenalty(limit=100, buffer=20)

    def of(*lengths):
        turns = [Turn(5, length, 0.1, "stop") for length in lengths]
        return penalty.score(replace(make_trajectory("x"), turns=turns))

    assert [of(80), of(90), of(3, 95, 7), of(100), of()] == [0.0, -0.5, -0.75, -1.0, 0.0]


def test_it_is_added_in_training_only_and_times_its_weight(heavy):
    from grpo_host.training.training_run import shaping_rewards

    def config(**training):
        return SimpleNamespace(training=TrainingConfig(**training), sampling=SimpleNamespace(max_tokens=64))

    assert shaping_rewards(config()) == []
    [added] = shaping_rewards(config(overlong_buffer=16, overlong_penalty=0.5))
    assert (added.name, added.weight, added.reward.limit, added.reward.buffer) == ("overlong", 0.5, 64, 16)

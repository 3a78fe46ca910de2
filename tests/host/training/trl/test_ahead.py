"""Steps are played in turn with training, or ahead of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from grpo_host.backends.event_loop import LoopThread
from grpo_host.config.schema import TrainingConfig
from grpo_host.rollouts.engine import RolloutEngine
from grpo_host.rollouts.scoring import RewardSet, WeightedReward
from grpo_host.training.interrupt import Interrupt, StopTraining
from grpo_host.training.task_order import TaskOrder
from grpo_host.utils.progress import Reporter
from grpo_sdk import Reward, Task
from grpo_sdk.errors import RunError
from grpo_sdk.testing import make_trajectory
from grpo_sdk.trajectory import Ledger, TokenSequence, Trajectory

pytestmark = [pytest.mark.model, pytest.mark.torch]

STEPS = 4


class Weights:
    """A policy whose versions are counted, and told to ``log``."""

    visible_update = None

    def __init__(self, log: list[str]) -> None:
        self.version = 0
        self.log = log

    async def sync(self, *_: object) -> None:
        self.version += 1
        self.log.append(f"weights {self.version}")


class One(Reward):
    async def score(self, trajectory: Trajectory) -> float:
        return 1.0


class Run:
    """A run whose episodes tell which weights they were played with."""

    def __init__(self, loop: LoopThread, monkeypatch: pytest.MonkeyPatch, staleness: int) -> None:
        # Not above: finding these tests would import the trainer.
        from grpo_host.training.trl.rollouts import GrpoRollouts

        self.log: list[str] = []
        self.told: list[str] = []
        self.policy = Weights(self.log)
        self.interrupt = Interrupt()
        self.stands = self.fails = False
        monkeypatch.setattr("grpo_host.rollouts.engine.run_episode", self._episode)
        order = TaskOrder([Task(f"t{number}") for number in range(STEPS)], 1, seed=0)
        order.begin(0)
        self.rollouts = GrpoRollouts(
            RolloutEngine(
                SimpleNamespace(backend=None),  # type: ignore[arg-type]
                lambda: None,  # type: ignore[arg-type,return-value]
                RewardSet([WeightedReward("one", One())]),
                environment_name="x",
                observers=[lambda trajectory: self.told.append(trajectory.id)],
                max_consecutive_failures=2,
            ),
            self.policy,  # type: ignore[arg-type]
            loop,
            Reporter(quiet=True),
            self.interrupt,
            order,
            TrainingConfig(steps=STEPS, tasks_per_step=1, group_size=2, max_staleness=staleness),
            seed=0,
        )

    async def _episode(self, *where: Any, policy_version: int, **_: object) -> Trajectory:
        request = where[2]
        if request.sample == 0:
            self.log.append(f"{request.id.partition('/')[0]} with {policy_version}")
        if self.stands:
            await asyncio.Event().wait()
        made = make_trajectory("x", task=request.task, status="failed" if self.fails else "completed")
        return replace(
            made, id=request.id, ledger=Ledger([TokenSequence([5], [1], [-1.0], [policy_version])])
        )

    def step(self, step: int) -> dict[str, float | None]:
        arguments = SimpleNamespace(gradient_accumulation_steps=1, steps_per_generation=1, num_iterations=1)
        trainer: Any = SimpleNamespace(state=SimpleNamespace(global_step=step - 1), args=arguments)
        played = self.rollouts([{"slot": step - 1}] * 2, trainer)
        assert [item.id.partition("/")[0] for item in played] == [str(step)] * 2
        self.log.append(f"update {step}")
        return self.rollouts.phases()

    def steps(self) -> list[tuple[float | None, float | None]]:
        """All of them; how stale the tokens of each were, and the stalest."""
        lines = [self.step(step) for step in range(1, STEPS + 1)]
        return [(line.get("rollouts/staleness"), line.get("rollouts/staleness_max")) for line in lines]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    loop, made = LoopThread(), []

    def make(staleness: int) -> Run:
        made.append(Run(loop, monkeypatch, staleness))
        return made[-1]

    yield make
    for one in made:
        one.rollouts.close()
    loop.close()


def test_sampling_and_training_take_turns(run) -> None:
    made = run(0)
    assert made.steps() == [(None, None)] * 4
    assert made.log == [
        part for n in range(1, 5) for part in (f"weights {n}", f"{n} with {n}", f"update {n}")
    ]


def test_a_step_ahead_is_sampled_with_the_weights_before_the_update(run) -> None:
    made = run(1)
    assert made.steps() == [(0, 0), (1, 1), (1, 1), (1, 1)]
    assert [line for line in made.log if "with" in line] == ["1 with 1", "2 with 1", "3 with 2", "4 with 3"]
    assert [line for line in made.log if "with" not in line] == [
        part for n in range(1, 5) for part in (f"weights {n}", f"update {n}")
    ]


def test_no_step_is_staler_than_it_may_be_and_none_is_played_twice(run) -> None:
    made = run(3)
    assert made.steps() == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert sorted(line for line in made.log if "with" in line) == [f"{n} with 1" for n in range(1, 5)]


def test_weights_that_were_sent_for_a_measurement_make_nothing_staler(run) -> None:
    made = run(1)
    made.step(1)
    asyncio.run(made.policy.sync())  # an evaluation after step 1
    assert made.step(2)["rollouts/staleness_max"] == 1
    assert made.step(3)["rollouts/staleness_max"] == 1


def test_observers_hear_of_a_step_when_the_trainer_takes_it(run, eventually) -> None:
    made = run(2)
    made.step(1)
    asyncio.run(eventually(lambda: sum("with" in line for line in made.log) == 3))  # steps 2 and 3 too
    assert [name.partition("/")[0] for name in made.told] == ["1", "1"]
    made.step(2)
    assert [name.partition("/")[0] for name in made.told] == ["1", "1", "2", "2"]


def test_steps_that_are_played_ahead_end_with_the_run(run) -> None:
    made = run(1)
    made.step(1)
    made.stands = True
    made.step(2)  # step 3 stands now
    made.rollouts.close()
    assert 3 not in made.rollouts._ahead
    assert made.rollouts.engine.active == 0


def test_a_signal_leaves_a_step_that_is_waited_for(run) -> None:
    made = run(1)
    made.step(1)
    made.stands = True
    made.step(2)
    made.interrupt.signal = 2
    with pytest.raises(StopTraining):
        made.step(3)


def test_what_fails_ahead_is_raised_when_its_step_is_due(run) -> None:
    made = run(1)
    made.fails = True
    with pytest.raises(RunError, match="2 episodes in a row have no reward"):
        made.step(1)
    assert len(made.told) == 2  # they are in trajectories.jsonl

"""Plays the episodes of a training step, of this rank and of the others."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_host.backends.event_loop import Runner
from grpo_host.config.schema import TrainingConfig
from grpo_host.rollouts.engine import Observer, RolloutEngine, RolloutMetrics
from grpo_host.rollouts.episode import EpisodeRequest
from grpo_host.rollouts.evaluation import kind_metrics
from grpo_host.rollouts.failures import most_frequent_failure
from grpo_host.training.interrupt import Interrupt
from grpo_host.training.policy import Policy
from grpo_host.training.ranks.process_group import Ranks
from grpo_host.training.task_order import TaskOrder
from grpo_host.training.trl.ahead import Staleness, StepsAhead
from grpo_host.training.trl.rows import has_reward_variance
from grpo_host.training.trl.steps import step_under_way
from grpo_host.training.trl.trainer import HostGRPOTrainer
from grpo_host.utils.progress import Reporter
from grpo_sdk.errors import RunError
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task, Trajectory

UNSCORED_STEPS = 3
"""Without a single reward, until a run is given up."""


@dataclass
class GrpoRollouts:
    """Plays the episodes that a training step asks for, from the current weights."""

    engine: RolloutEngine
    policy: Policy
    loop: Runner
    reporter: Reporter
    interrupt: Interrupt
    order: TaskOrder
    training: TrainingConfig
    seed: int
    ranks: Ranks = field(default_factory=Ranks)
    observers: Sequence[Observer] = ()
    """Hear of other ranks' trajectories; the engine's own observers hear of this rank's."""
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: RolloutMetrics = field(default_factory=RolloutMetrics)
    kinds: Mapping[str, float | None] = field(default_factory=dict)
    """The last step's metrics of each kind of task."""
    unscored: int = 0
    """Steps in a row in which not one episode had a reward."""
    replayed: int = 0
    """Groups of the last step that were played anew, since they taught nothing."""
    staleness: Sequence[int] = ()
    """Of each sampled token of the last step."""

    def __post_init__(self) -> None:
        self._ahead = StepsAhead(self.engine, self.loop)
        self._staleness = Staleness()

    def __call__(self, rows: Sequence[dict[str, Any]], trainer: HostGRPOTrainer) -> list[Trajectory]:
        """One trajectory a row. Rows of one task come together or apart; each is its own sample.

        With ``training.max_staleness``, the steps that follow are played while the trainer is at this one.
        Raises ``RunError`` if steps go by in which nothing can be learnt, since nothing is scored.
        """
        self.interrupt.check()
        step = step_under_way(trainer.args, trainer.state)
        begun = step in self._ahead
        started = time.perf_counter()
        if not begun:
            self._sync(step)
        synced = time.perf_counter()
        groups = self._groups(rows, step)
        if self.training.max_staleness:
            if not begun:
                self._ahead.begin(step, groups, policy_version=self.policy.version)
                self._begin_ahead(step, rows)
            played, own = self._take(step, groups)
        else:
            played, own = self._play(f"step {step}: rollouts", groups)
        all_played = [item for group in played.values() for item in group]
        self.replayed = 0
        for again in range(self.training.dynamic_sampling):
            equal = [slot for slot, group in played.items() if self._is_equal(group)]
            if not equal:
                break
            self.replayed += len(equal)
            others = self._other_tasks(step, again, equal)
            anew, _ = self._play(f"step {step}: rollouts again", others)
            all_played += [item for group in anew.values() for item in group]
            played |= anew
        everyone = gather_played(all_played, self.ranks, self.observers)
        self.order.observe(everyone)
        self.kinds = kind_metrics(everyone)
        waited = time.perf_counter() - synced
        self.metrics = RolloutMetrics(seconds=own.seconds if begun else waited, loop_lag_p99=own.loop_lag_p99)
        for trajectory in everyone:
            self.metrics.add(trajectory)
        sending = time.perf_counter()
        if begun:
            self._sync(step)
            self._begin_ahead(step, rows)
        self.seconds = {
            "weight_sync": synced - started + time.perf_counter() - sending,
            "rollouts": waited,
        }
        self.staleness = self._staleness.of(everyone) if self.training.max_staleness else ()
        self._give_up_unscored(everyone)
        queues = {slot: iter(group) for slot, group in played.items()}
        return [next(queues[row["slot"]]) for row in rows]

    def close(self) -> None:
        """Leave the steps that are being played."""
        self._ahead.close()

    def _sync(self, step: int) -> None:
        self.loop.run(self.policy.sync(self.engine.agent.backend), check=self.interrupt.check)
        self._staleness.sent(self.policy.version, step - 1)

    def _begin_ahead(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Begin the steps after ``step`` that may be played with the weights as they are now."""
        for later in range(step + 1, min(step + self.training.max_staleness, self.training.steps) + 1):
            if later not in self._ahead:
                shift = (later - step) * self.training.tasks_per_step
                groups = self._groups([{"slot": row["slot"] + shift} for row in rows], later)
                self._ahead.begin(later, groups, policy_version=self.policy.version)

    def _take(
        self, step: int, groups: Mapping[int, list[EpisodeRequest]]
    ) -> tuple[dict[int, list[Trajectory]], RolloutMetrics]:
        total = sum(len(group) for group in groups.values())
        with self.reporter.phase(f"step {step}: rollouts", total) as advance:
            return self._ahead.take(step, list(groups), advance=advance, check=self.interrupt.check)

    def _give_up_unscored(self, played: Sequence[Trajectory]) -> None:
        self.unscored = self.unscored + 1 if all(item.reward is None for item in played) else 0
        if self.unscored == UNSCORED_STEPS:
            raise RunError(
                f"not one episode of {UNSCORED_STEPS} steps has a reward; what failed most: "
                f"{most_frequent_failure(played)}. Their trajectories are in trajectories.jsonl; mend it and "
                "go on with --resume"
            )

    def _play(
        self, label: str, groups: Mapping[int, list[EpisodeRequest]]
    ) -> tuple[dict[int, list[Trajectory]], RolloutMetrics]:
        total = sum(len(group) for group in groups.values())
        with self.reporter.phase(label, total) as advance:
            played, metrics = self.loop.run(
                self.engine.run(
                    list(groups.values()),
                    policy_version=self.policy.version,
                    on_episode=lambda _: advance(),
                ),
                check=self.interrupt.check,
            )
        return dict(zip(groups, played, strict=True)), metrics

    def _is_equal(self, group: Sequence[Trajectory]) -> bool:
        each = self.training.multi_objective_aggregation == "normalize_then_sum"
        return not has_reward_variance(group, each=each)

    def _groups(self, rows: Sequence[dict[str, Any]], step: int) -> dict[int, list[EpisodeRequest]]:
        groups: dict[int, list[EpisodeRequest]] = {}
        for slot, samples in Counter(row["slot"] for row in rows).items():
            done, place = divmod(slot, self.training.tasks_per_step)
            tasks = self.order.tasks(done)
            task = tasks[place]
            # Where there are few tasks, one comes twice in a step: its episodes are told apart.
            again = sum(earlier.id == task.id for earlier in tasks[:place])
            groups[slot] = self._requests(task, step, again * self.training.group_size, samples)
        return groups

    def _other_tasks(self, step: int, again: int, slots: Sequence[int]) -> dict[int, list[EpisodeRequest]]:
        """Groups for ``slots`` on other tasks of their kinds than the step has had, if there are any.

        They hang on the run's seed, the step and the slot alone: a step that is done again is the same.
        """
        size, per_step = self.training.group_size, self.training.tasks_per_step
        had = self.order.tasks(step - 1)
        groups = {}
        for slot in slots:
            place = slot % per_step
            alike = self.order.of_kind(had[place].kind)
            new = [task for task in alike if task.id not in {task.id for task in had}] or alike
            task = random.Random(derive_seed(self.seed, step, "dynamic-sampling", again, slot)).choice(new)
            # Samples that no other slot and no other round has.
            first = size * (per_step * (again + 1) + place)
            groups[slot] = self._requests(task, step, first, size)
        return groups

    def _requests(self, task: Task, step: int, first: int, samples: int) -> list[EpisodeRequest]:
        return [
            EpisodeRequest(
                task=task,
                sample=sample,
                seed=derive_seed(self.seed, step, task.id, sample),
                environment_seed=derive_seed(self.seed, step, task.id, "environment"),
                id=f"{step}/{task.id}/{sample}",
            )
            for sample in range(first, first + samples)
        ]

    def phases(self) -> dict[str, float | None]:
        """Timings and counts of the last step, for its line of metrics.jsonl."""
        rollout = self.metrics.as_dict()
        rollout.pop("seconds")
        visible = self.policy.visible_update
        return {
            **({"weights/visible_update": visible} if visible is not None else {}),
            **{f"seconds/{name}": value for name, value in self.seconds.items()},
            **{f"rollouts/{name}": value for name, value in rollout.items()},
            **self.kinds,
            **self.order.metrics(),
            **({"rollouts/replayed_groups": self.replayed} if self.training.dynamic_sampling else {}),
            **self._staleness_metrics(),
        }

    def _staleness_metrics(self) -> dict[str, float]:
        if not self.staleness:
            return {}
        return {
            "rollouts/staleness": statistics.fmean(self.staleness),
            "rollouts/staleness_max": max(self.staleness),
        }


def gather_played(
    played: Sequence[Trajectory], ranks: Ranks, observers: Sequence[Observer]
) -> list[Trajectory]:
    """What all ranks played, rank 0's first. On rank 0 ``observers`` hear of the others'."""
    everyone = ranks.gather(played)
    if ranks.main:
        for trajectory in everyone[len(played) :]:
            for observer in observers:
                observer(trajectory)
    return everyone

"""Evaluation: one episode a task, rewards and success with a confidence interval over episodes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from grpo_host.rollouts.engine import RolloutEngine, RolloutMetrics
from grpo_host.rollouts.episode import EpisodeRequest
from grpo_host.rollouts.failures import most_frequent_failure
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task, Trajectory

Z = 1.96
"""Standard errors of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Interval | None:
        """Normal approximation over independent episodes; None of no values, a point of one."""
        if not values:
            return None
        mean = statistics.fmean(values)
        if len(values) == 1:
            return Interval(mean, mean, mean)
        half = Z * statistics.stdev(values) / math.sqrt(len(values))
        return Interval(mean, mean - half, mean + half)

    @staticmethod
    def of_share(hits: Sequence[bool]) -> Interval | None:
        """How often True: Wilson's score interval (1927), which stays within [0, 1]."""
        if not hits:
            return None
        share, n = statistics.fmean(hits), len(hits)
        centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
        return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation measured."""

    split: str
    episodes: int
    failed: int
    """Episodes or rewards that failed; they are left out of the means."""
    reward: Interval | None
    parts: dict[str, float] = field(default_factory=dict)
    """Mean unweighted value of each reward."""
    success: Interval | None = None
    """Share of episodes whose outcome says success; None if the environment does not say."""
    seconds: float = 0.0
    rollouts: dict[str, float] = field(default_factory=dict)
    failure: str | None = None
    """The most frequent cause of those that failed."""
    kinds: dict[str, Evaluation] = field(default_factory=dict)
    """The same for each kind of task, if there are kinds, such as the environments of a mixture."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def __str__(self) -> str:
        kinds = [f"{kind}: {evaluation._line(timed=False)}" for kind, evaluation in self.kinds.items()]
        return "\n  ".join([self._line(), *kinds])

    def _line(self, *, timed: bool = True) -> str:
        parts = [f"reward {_text(self.reward)}"]
        if self.success is not None:
            parts.append(f"success {self.success.mean:.0%}")
        parts += [f"{name} {value:.2f}" for name, value in self.parts.items()]
        if self.failed:
            parts.append(f"{self.failed} failed")
        took = f", {self.seconds:.0f} s" if timed else ""
        text = f"{', '.join(parts)} ({self.episodes} {self.split} episodes{took})"
        return text if self.failure is None else f"{text}; what failed most: {self.failure}"


def _text(interval: Interval | None) -> str:
    if interval is None:
        return "unknown"
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def evaluation_requests(tasks: Sequence[Task], *, seed: int, label: str) -> list[list[EpisodeRequest]]:
    """One episode a task, seeded by the task alone: the same whenever it is evaluated."""
    return [
        [
            EpisodeRequest(
                task=task,
                seed=derive_seed(seed, "evaluation", task.id),
                environment_seed=derive_seed(seed, "evaluation", task.id, "environment"),
                id=f"{label}/{task.id}",
            )
        ]
        for task in tasks
    ]


async def evaluate(
    engine: RolloutEngine,
    tasks: Sequence[Task],
    *,
    seed: int,
    split: str,
    label: str = "evaluation",
    policy_version: int = 0,
    done: Sequence[Trajectory] = (),
    on_episode: Callable[[], None] = lambda: None,
) -> tuple[Evaluation, list[Trajectory]]:
    """Play ``tasks`` except those whose scored trajectory is in ``done`` already, and sum up all of them."""
    known = {item.task.id: item for item in done if item.reward is not None}
    remaining = [task for task in tasks if task.id not in known]
    requests = evaluation_requests(remaining, seed=seed, label=label)
    groups, metrics = await engine.run(
        requests, policy_version=policy_version, on_episode=lambda _: on_episode()
    )
    played = {item.task.id: item for group in groups for item in group}
    trajectories = [known.get(task.id) or played[task.id] for task in tasks]
    return summarise(trajectories, split, metrics), trajectories


def summarise(trajectories: Sequence[Trajectory], split: str, metrics: RolloutMetrics) -> Evaluation:
    """The means and intervals of ``trajectories``."""
    scored = [item for item in trajectories if item.reward is not None]
    names = list(dict.fromkeys(name for item in scored for name in item.rewards))
    said = [item.outcome["success"] for item in scored if "success" in item.outcome]
    return Evaluation(
        split=split,
        episodes=len(trajectories),
        failed=len(trajectories) - len(scored),
        reward=Interval.of([item.reward for item in scored if item.reward is not None]),
        parts={
            name: statistics.fmean(t.rewards[name].value or 0.0 for t in scored if name in t.rewards)
            for name in names
        },
        success=Interval.of_share([bool(value) for value in said]),
        seconds=metrics.seconds,
        rollouts=metrics.as_dict(),
        failure=most_frequent_failure(trajectories),
        kinds={kind: _of_kind(played, split) for kind, played in by_kind(trajectories).items()},
    )


def _of_kind(trajectories: Sequence[Trajectory], split: str) -> Evaluation:
    plain = [replace(item, task=replace(item.task, kind="")) for item in trajectories]
    metrics = RolloutMetrics()
    for item in plain:
        metrics.add(item)
    return summarise(plain, split, metrics)


def by_kind(trajectories: Iterable[Trajectory]) -> dict[str, list[Trajectory]]:
    """The trajectories of each kind of task; of those without a kind, none."""
    found: dict[str, list[Trajectory]] = {}
    for item in trajectories:
        if item.task.kind:
            found.setdefault(item.task.kind, []).append(item)
    return dict(sorted(found.items()))


def kind_metrics(trajectories: Iterable[Trajectory]) -> dict[str, float | None]:
    """Of each kind of task: episodes, share of failed, mean reward, success, lengths; flat, for logs."""
    flat: dict[str, float | None] = {}
    for kind, played in by_kind(trajectories).items():
        found = _of_kind(played, "")
        values = {
            "episodes": found.episodes,
            "failed": found.failed / found.episodes,
            "reward": found.reward.mean if found.reward else None,
            "success": found.success.mean if found.success else None,
            "turns_per_episode": found.rollouts["turns_per_episode"],
            "tokens_per_turn": found.rollouts["tokens_per_turn"],
        }
        flat.update({f"kinds/{kind}/{name}": value for name, value in values.items()})
    return flat

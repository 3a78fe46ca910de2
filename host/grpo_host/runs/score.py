"""``grpo-host score``: score trajectories that were played before with other rewards."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from grpo_host.assembly.from_yaml import build_rewards
from grpo_host.backends.event_loop import LoopThread
from grpo_host.backends.lifetime import close_backends
from grpo_host.rollouts.failures import most_frequent_failure
from grpo_host.rollouts.scoring import RewardSet
from grpo_host.runs.directory import RunDirectory
from grpo_host.runs.playing import cannot_write
from grpo_host.utils.progress import Reporter, nowhere
from grpo_host.utils.stdout import plugins_print_to_stderr
from grpo_sdk.errors import ConfigError, GrpoError, RunError
from grpo_sdk.trajectory import Trajectory

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig

TOTAL = "reward"
"""The row of the weighted sum."""


@dataclass
class Scores:
    """What one reward gave, before and now."""

    before: list[float] = field(default_factory=list)
    now: list[float] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    """By how much, if there are both."""

    def add(self, before: float | None, now: float | None) -> None:
        """Count one trajectory."""
        if before is not None:
            self.before.append(before)
        if now is not None:
            self.now.append(now)
        if before is not None and now is not None:
            self.changed.append(abs(now - before))


def run_score(
    loaded: ResolvedConfig, source: Path, *, out: Path | None = None
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Score the trajectories of ``source``, a file or a run's directory, with the rewards of ``loaded``.

    They are read, scored and written to ``out`` group by group: those of one task and step, which stand
    together. Gives the scores by reward, in agent.yaml's order, and the counts. Raises ``GrpoError``.
    """
    reporter = Reporter(sys.stderr or nowhere())
    scores: dict[str, Scores] = defaultdict(Scores)
    counts = {"trajectories": 0, "failed": 0, "unscored": 0}
    with ExitStack() as stack:
        stack.enter_context(plugins_print_to_stderr())
        stack.enter_context(loaded.closing)
        try:
            rewards = RewardSet(build_rewards(loaded, progress=reporter.line))
        except GrpoError as problem:
            raise ConfigError(f"{loaded.path}: {problem}") from problem
        loop = LoopThread()
        stack.callback(loop.close)
        stack.callback(lambda: loop.run(close_backends(*rewards.backends)))
        write = stack.enter_context(_opened(out)).write if out else lambda _: None
        unscored: list[Trajectory] = []
        with reporter.phase("scoring") as advance:
            for group in _groups(_read(source)):
                scored = loop.run(rewards.score(group))
                for old, new in zip(group, scored, strict=True):
                    advance()
                    _count(old, new, scores, counts)
                    if new.reward is None and len(unscored) < 1000:
                        unscored.append(new)
                    write(new.to_json() + b"\n")
    if not counts["trajectories"]:
        raise RunError(f"{source}: there is no trajectory in it")
    return scores, {**counts, "failure": most_frequent_failure(unscored)}


def _count(old: Trajectory, new: Trajectory, scores: dict[str, Scores], counts: dict[str, int]) -> None:
    counts["trajectories"] += 1
    if new.status == "failed":
        counts["failed"] += 1
        return
    counts["unscored"] += new.reward is None
    for name in [*new.rewards, *(name for name in old.rewards if name not in new.rewards)]:
        scores[name].add(*(item.rewards[name].value if name in item.rewards else None for item in (old, new)))
    scores[TOTAL].add(old.reward, new.reward)


def _read(source: Path) -> Iterator[Trajectory]:
    if source.is_dir():
        yield from RunDirectory(source).read_trajectories()
        return
    try:
        with source.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield Trajectory.from_json(line)
                except ValueError as problem:
                    why = " ".join(str(problem).split("For further information")[0].split())[:200]
                    raise RunError(f"{source}:{number}: no trajectory: {why}") from problem
    except OSError as problem:
        raise RunError(f"{source}: cannot be read: {problem.strerror or problem}") from problem


def _groups(trajectories: Iterable[Trajectory]) -> Iterator[list[Trajectory]]:
    """Those of one task and one batch, which a run writes one after the other."""
    for _, group in groupby(trajectories, lambda item: (item.id.rpartition("/")[0], item.task.id)):
        yield list(group)


def _opened(path: Path) -> Any:
    if path.exists() and path.stat().st_size:
        raise RunError(f"{path} holds something already; name another --out")
    try:
        return path.open("wb")
    except OSError as problem:
        raise cannot_write(path, problem) from problem


def mean(values: list[float]) -> float | None:
    """Of ``values``; None if there are none."""
    return fmean(values) if values else None

"""Steps that are sampled while the trainer is at an earlier one."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from grpo_host.backends.event_loop import Runner
from grpo_host.rollouts.engine import RolloutEngine, RolloutMetrics
from grpo_host.rollouts.episode import EpisodeRequest
from grpo_sdk.trajectory import Trajectory

Groups = Mapping[int, list[EpisodeRequest]]
"""The episodes of a step, by slot."""


@dataclass
class _Begun:
    """A step that is being played."""

    slots: list[int]
    scored: list[Trajectory] = field(default_factory=list)
    ended: int = 0
    advance: Callable[[], None] = lambda: None
    task: asyncio.Task[tuple[list[list[Trajectory]], RolloutMetrics]] | None = None

    def count(self, _: Trajectory) -> None:
        self.ended += 1
        self.advance()

    async def result(self, advance: Callable[[], None]) -> tuple[list[list[Trajectory]], RolloutMetrics]:
        """Call ``advance`` for each episode that has ended or ends. Cancelling it cancels the step."""
        for _ in range(self.ended):
            advance()
        self.advance = advance
        if self.task is None:
            raise AssertionError("a step is waited for that was not begun")
        return await self.task


class StepsAhead:
    """Plays steps in the background.

    What observers hear comes when the step is taken: trajectories.jsonl has the steps in their order, and
    none that the trainer does not reach.
    """

    def __init__(self, engine: RolloutEngine, loop: Runner) -> None:
        self._engine = engine
        self._loop = loop
        self._begun: dict[int, _Begun] = {}

    def __contains__(self, step: int) -> bool:
        return step in self._begun

    def begin(self, step: int, groups: Groups, *, policy_version: int) -> None:
        """Begin to play ``step``, and return at once."""
        begun = _Begun(list(groups))

        async def begin() -> None:
            played = self._engine.run(
                list(groups.values()),
                policy_version=policy_version,
                on_episode=begun.count,
                observers=[begun.scored.append],
            )
            begun.task = asyncio.get_running_loop().create_task(played)

        self._loop.run(begin())
        self._begun[step] = begun

    def take(
        self, step: int, slots: Sequence[int], *, advance: Callable[[], None], check: Callable[[], None]
    ) -> tuple[dict[int, list[Trajectory]], RolloutMetrics]:
        """Wait for ``step``, which is that of ``slots``, and tell the observers. Raises what it raised."""
        begun = self._begun[step]
        if begun.slots != list(slots):
            raise AssertionError(f"step {step} was begun with the slots {begun.slots}, not {list(slots)}")
        try:
            played, metrics = self._loop.run(begun.result(advance), check=check)
        finally:
            for trajectory in begun.scored:
                for observer in self._engine.observers:
                    observer(trajectory)
            begun.scored.clear()
        del self._begun[step]
        return dict(zip(begun.slots, played, strict=True)), metrics

    def close(self) -> None:
        """Leave the steps that are being played."""

        async def leave() -> None:
            tasks = [begun.task for begun in self._begun.values() if begun.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        if self._begun:
            self._loop.run(leave())
            self._begun.clear()


class Staleness:
    """How many steps the trainer was ahead of the weights that sampled."""

    def __init__(self) -> None:
        self._versions: list[int] = []
        self._steps: list[int] = []

    def sent(self, version: int, steps: int) -> None:
        """The weights after so many steps were sent as ``version``, and maybe before for a measurement."""
        self._versions.append(version)
        self._steps.append(steps)

    def of(self, played: Sequence[Trajectory]) -> list[int]:
        """One number a sampled token, for the trainer that the newest weights are from."""
        return [
            self._steps[-1] - self._steps[bisect_left(self._versions, version)]
            for trajectory in played
            for row in (trajectory.ledger.sequences if trajectory.ledger else ())
            for version in row.versions
            if version >= 0
        ]

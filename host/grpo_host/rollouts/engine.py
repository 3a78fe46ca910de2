"""The rollout engine: many episodes side by side over one backend, none waiting for another.

The usage guide calls it the computational engine.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import anyio

from grpo_host.agents.tracing import Phase
from grpo_host.rollouts.episode import EpisodeAgent, EpisodeRequest, run_episode
from grpo_host.rollouts.failures import FailureLimit
from grpo_host.rollouts.gc_pause import short_collections
from grpo_host.rollouts.loop_watch import LoopWatch
from grpo_host.rollouts.scoring import RewardSet
from grpo_sdk.environment import Environment
from grpo_sdk.messages import Message
from grpo_sdk.trajectory import Task, Trajectory

logger = logging.getLogger(__name__)

Observer = Callable[[Trajectory], object]


@dataclass(slots=True)
class RolloutMetrics:
    """What rollouts have come to."""

    episodes: int = 0
    seconds: float = 0.0
    turns: int = 0
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    cut: int = 0
    """Turns that ended at the sampling's max_tokens, or at the end of the context."""
    tool_calls: int = 0
    tool_errors: int = 0
    forks: int = 0
    """Contexts that began anew because a template rewrote history: what others call drift."""
    stops: Counter[str] = field(default_factory=Counter)
    """Episodes by stop reason."""
    statuses: Counter[str] = field(default_factory=Counter)
    successes: list[bool] = field(default_factory=list)
    """Of the episodes whose environment says."""
    rewards: list[float] = field(default_factory=list)
    reward_errors: int = 0
    """Episodes for which a reward failed, so that they count for nothing."""
    answers: set[int] = field(default_factory=set)
    """Each task with what the policy said and called, once: its hash, since a long run has many."""
    repeated: float = 0.0
    """Of each reply the share that it had said before, summed; replies of a few words count as new."""
    loop_lag_p99: float | None = None
    """How many seconds late the event loop was at the worst but 1 % of the looks at it."""

    def add(self, trajectory: Trajectory) -> None:
        """Count one more episode."""
        self.episodes += 1
        self.turns += len(trajectory.turns)
        for turn in trajectory.turns:
            self.prompt_tokens += turn.prompt_tokens
            self.sampled_tokens += turn.completion_tokens
            self.cut += turn.finish_reason == "length"
            self.tool_calls += len(turn.tools)
            for tool in turn.tools:
                self.tool_errors += tool.error is not None
        self.forks += trajectory.ledger.forks if trajectory.ledger else 0
        self.stops[trajectory.stop_reason] += 1
        self.statuses[trajectory.status] += 1
        if trajectory.reward is not None:
            self.rewards.append(trajectory.reward)
        self.reward_errors += any(record.error for record in trajectory.rewards.values())
        if "success" in trajectory.outcome:
            self.successes.append(bool(trajectory.outcome["success"]))
        said = trajectory.policy_messages
        for message in said:
            self.repeated += _repeated(message["content"])
        self.answers.add(hash((trajectory.task.id, _words(said))))

    def as_dict(self) -> dict[str, float]:
        """Flat numbers for logs."""
        return {
            "episodes": self.episodes,
            "seconds": self.seconds,
            **rates([self]),
            "turns_per_episode": self.turns / max(1, self.episodes),
            "sampled_tokens": self.sampled_tokens,
            "tokens_per_turn": self.sampled_tokens / max(1, self.turns),
            "cut": self.cut / max(1, self.turns),
            "tool_calls": self.tool_calls,
            "tool_errors": self.tool_errors,
            "forks": self.forks,
            **{f"stop/{reason}": count for reason, count in sorted(self.stops.items())},
            "failed": self.statuses["failed"],
            "truncated": self.statuses["truncated"],
            "reward_errors": self.reward_errors,
            "duplicates": 1 - len(self.answers) / max(1, self.episodes),
            "repetition": self.repeated / max(1, self.turns),
            **({"loop_lag_p99": self.loop_lag_p99} if self.loop_lag_p99 is not None else {}),
            **({"success": statistics.fmean(self.successes)} if self.successes else {}),
            **_spread(self.rewards),
        }


def _words(said: Sequence[Message]) -> tuple[object, ...]:
    return tuple(
        (message["content"], *(tuple(call["function"].values()) for call in message.get("tool_calls", ())))
        for message in said
    )


def _repeated(reply: str) -> float:
    """How much of ``reply`` are four words that stand in it before."""
    words = reply.split()
    if len(words) < 5:
        return 0.0
    fours = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1 - len(set(fours)) / len(fours)


def _spread(rewards: Sequence[float]) -> dict[str, float]:
    """The tenths of the episodes with the lowest and the highest rewards end here."""
    if len(rewards) < 2:
        return {}
    tenths = statistics.quantiles(rewards, n=10, method="inclusive")
    return {"reward_p10": tenths[0], "reward_p90": tenths[-1]}


def rates(batches: Collection[RolloutMetrics]) -> dict[str, float]:
    """Episodes and sampled tokens a second, over all of ``batches``."""
    seconds = sum(batch.seconds for batch in batches) or float("inf")
    return {
        "trajectories_per_second": sum(batch.episodes for batch in batches) / seconds,
        "tokens_per_second": sum(batch.sampled_tokens for batch in batches) / seconds,
    }


class RolloutEngine:
    """Runs groups of episodes, at most ``concurrency`` episodes at a time, and scores each group."""

    def __init__(
        self,
        agent: EpisodeAgent,
        make_environment: Callable[[], Environment],
        rewards: RewardSet,
        *,
        environment_name: str | Callable[[Task], str],
        concurrency: int = 32,
        episode_seconds: float = 600.0,
        observers: Iterable[Observer] = (),
        max_consecutive_failures: int | None = None,
    ) -> None:
        self.agent = agent
        self.make_environment = make_environment
        self.rewards = rewards
        self.environment_name = environment_name
        """Its name, or that of the one that plays a task."""
        self._limiter = anyio.CapacityLimiter(_at_least_one(concurrency))
        self.episode_seconds = episode_seconds
        self.observers = list(observers)
        self.phase: Phase = nullcontext
        """Watches how groups are scored."""
        self._failures = FailureLimit(max_consecutive_failures)

    @property
    def concurrency(self) -> int:
        """Episodes side by side, over all that runs; may be changed meanwhile."""
        return int(self._limiter.total_tokens)

    @concurrency.setter
    def concurrency(self, episodes: int) -> None:
        self._limiter.total_tokens = _at_least_one(episodes)

    @property
    def active(self) -> int:
        """Episodes under way."""
        return self._limiter.borrowed_tokens

    async def run(
        self,
        groups: Sequence[Sequence[EpisodeRequest]],
        *,
        policy_version: int = 0,
        on_episode: Observer = lambda _: None,
        observers: Sequence[Observer] | None = None,
    ) -> tuple[list[list[Trajectory]], RolloutMetrics]:
        """The trajectories of ``groups``, in their order, and what the batch came to.

        A group is scored as soon as its last episode ends, while others still run.
        ``on_episode`` is called as each episode ends, before it has rewards. What an observer
        raises (a full disk) stops the others and goes on to the caller. ``observers`` take the place of the
        engine's. Raises ``RunError`` if
        ``max_consecutive_failures`` episodes in a row have no reward.
        """
        metrics = RolloutMetrics()
        started = time.perf_counter()
        self._failures.begin()

        async def episode(request: EpisodeRequest) -> Trajectory:
            name = self.environment_name
            trajectory = await run_episode(
                self.agent,
                self.make_environment,
                request,
                environment_name=name if isinstance(name, str) else name(request.task),
                seconds=self.episode_seconds,
                policy_version=policy_version,
            )
            on_episode(trajectory)
            return trajectory

        # Not the tasks, each of which keeps a context: of thousands the collector would walk them all.
        results: list[list[Trajectory] | None] = [None] * len(groups)

        async def group(number: int, episodes: Sequence[asyncio.Task[Trajectory]]) -> None:
            played = [await episode for episode in episodes]
            with self.phase("reward_calculation"):
                scored = await self.rewards.score(played)
            for trajectory in scored:
                metrics.add(trajectory)
                for observer in self.observers if observers is None else observers:
                    observer(trajectory)
            for trajectory in scored:
                self._failures.see(trajectory)
            results[number] = scored

        failed: list[Exception] = []
        try:
            with short_collections(), LoopWatch() as watch:
                async with asyncio.TaskGroup() as tasks:
                    for number, requests in enumerate(groups):
                        begun = []
                        for request in requests:
                            # A task only once it may run: thousands that wait would delay the first.
                            place = object()
                            try:  # a turn of the loop for each episode costs as much as a tool's call
                                self._limiter.acquire_on_behalf_of_nowait(place)
                            except anyio.WouldBlock:
                                await self._limiter.acquire_on_behalf_of(place)
                            begun.append(tasks.create_task(episode(request)))
                            # Not in the coroutine: a task can be cancelled before it begins.
                            begun[-1].add_done_callback(partial(self._leave, place))
                        tasks.create_task(group(number, begun))
        except ExceptionGroup as problems:
            failed += problems.with_traceback(None).exceptions
        if failed:
            for other in failed[1:]:
                logger.warning("beside what ends the run: %s", other)
            del failed[1:]
            raise failed.pop()  # what is raised holds this frame, which must not hold it in turn
        metrics.seconds = time.perf_counter() - started
        metrics.loop_lag_p99 = watch.lag_p99
        return _all(results), metrics

    def _leave(self, place: object, _: asyncio.Task[Trajectory]) -> None:
        self._limiter.release_on_behalf_of(place)


def _all(results: Sequence[list[Trajectory] | None]) -> list[list[Trajectory]]:
    if any(scored is None for scored in results):
        raise asyncio.CancelledError("a plugin cancelled the task that asked it")
    return [scored for scored in results if scored is not None]


def _at_least_one(concurrency: int) -> int:
    if concurrency < 1:
        raise ValueError(f"at least one episode must run, not {concurrency}; give a concurrency of 1 or more")
    return concurrency


def group_requests(
    tasks: Iterable[Task], samples: int, *, seed: Callable[[Task, int], int], label: str
) -> list[list[EpisodeRequest]]:
    """``samples`` requests for each of ``tasks``; ``seed(task, sample)`` seeds what is sampled.

    A task's environment seed is ``seed(task, -1)``, shared by its whole group. If a task comes again,
    its samples are counted on.
    """
    groups = []
    begun: Counter[str] = Counter()
    for index, task in enumerate(tasks):
        environment_seed = seed(task, -1)
        first = begun[task.id]
        begun[task.id] += samples
        groups.append(
            [
                EpisodeRequest(
                    task=task,
                    sample=sample,
                    seed=seed(task, sample),
                    environment_seed=environment_seed,
                    id=f"{label}/{index}/{task.id}/{sample}",
                )
                for sample in range(first, first + samples)
            ]
        )
    return groups

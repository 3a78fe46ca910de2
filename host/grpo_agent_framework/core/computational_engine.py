"""``create_computational_engine``: rollouts side by side, and a GRPO update an iteration."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo_host.assembly.from_python.agents import as_agent, checked_agent, is_trainable
from grpo_host.assembly.from_python.environments import PromptEnvironment, as_environment, prompt_task
from grpo_host.assembly.from_python.rewards import as_rewards
from grpo_host.config.schema import TrainingConfig
from grpo_host.rollouts.engine import RolloutEngine, RolloutMetrics, group_requests, rates
from grpo_host.rollouts.scoring import RewardSet
from grpo_host.training.trl.online import FEW_UPDATES, OnlineTrainer
from grpo_host.utils.paths import expanded
from grpo_host.utils.validation import settings_of
from grpo_sdk.errors import CapabilityError, ConfigError
from grpo_sdk.rewards import GroupReward
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task, Trajectory

RECENT = 8
"""The last iterations, which rates are told of: the first ones load and warm up."""

OF_A_RUN = frozenset(
    {
        "steps", "tasks_per_step", "early_stopping", "world_size", "warm_start", "save_every",
        "report_to", "lr_schedule", "record_tokens",
    }
)  # fmt: skip
"""Keys of agent.yaml's ``training`` that mean nothing to a single update."""


class ComputationalEngine:
    """Plays episodes for prompts, scores them, and trains the agent if it can be trained."""

    def __init__(
        self,
        agent: object,
        environment: object,
        reward_function: object = None,
        *,
        num_workers: int = 4,
        train: bool | None = None,
        seed: int = 0,
        episode_seconds: float = 600.0,
        **training: Any,
    ) -> None:
        """``train`` None: train if the agent can be. ``training``: keys of agent.yaml's ``training``
        that concern one update; by default ``group_size`` is 8 and ``learning_rate`` 1e-3.

        Raises ``ConfigError`` for what is no agent, environment, reward or setting.
        """
        if not isinstance(num_workers, int) or num_workers < 1:
            raise ConfigError(f"num_workers is {num_workers!r:.40}; at least one episode must run at a time")
        self.agent = checked_agent(agent)
        if foreign := sorted(OF_A_RUN & training.keys()):
            raise ConfigError(
                f"{', '.join(foreign)}: of a whole run, and train_iteration makes one update. Leave it out, "
                "or train with DistributedGRPOTrainer"
            )
        self.settings = settings_of(TrainingConfig, {**FEW_UPDATES, **training})
        self._environment = as_environment(environment)
        self._prompted = isinstance(self._environment(), PromptEnvironment)
        self._rewards = RewardSet(as_rewards(reward_function, steps_are_rewarded=self._prompted))
        self._name = getattr(environment, "__name__", type(environment).__name__)
        self._workers = num_workers
        self._wants_training = train
        self._seed = seed
        self._episode_seconds = episode_seconds
        self._rollouts: RolloutEngine | None = None
        self._trainer: OnlineTrainer | None = None
        self._iterations = 0
        self._total = RolloutMetrics()
        self._recent: deque[RolloutMetrics] = deque(maxlen=RECENT)
        self._last: dict[str, Any] = {}

    async def train_iteration(self, prompts: Sequence[str | Task]) -> dict[str, Any]:
        """Play, score and, if the agent is trained, make one GRPO update.

        ``prompts``: texts, or tasks (of an environment of the SDK also their ids). The result has
        ``average_reward`` (NaN if no episode could be scored), ``trajectories``, ``rewards`` (one
        a trajectory, None if it failed), ``parts`` (the mean of each reward and of its own parts),
        ``updated``, ``failed``, ``errors``, ``seconds``, ``seconds_by_phase``, ``iteration``, and of an
        update the trainer's metrics (``loss``, …).
        """
        started = time.perf_counter()
        engine = await self._started()
        tasks = self._tasks(prompts)
        self._iterations += 1
        metrics: dict[str, float] = {}
        phases: dict[str, float] = {}
        updated = False
        if self._trainer is not None:
            step = await self._trainer.step(tasks)
            groups, rollouts, updated, metrics = step.groups, step.rollouts, step.updated, step.metrics
            phases = step.seconds
        else:
            # One answer has nothing to be judged against.
            judged = any(isinstance(item.reward, GroupReward) for item in self._rewards.rewards)
            samples = self.settings.group_size if judged else 1
            groups, rollouts = await engine.run(
                group_requests(tasks, samples, seed=self._seed_of, label=str(self._iterations))
            )
        self._recent.append(rollouts)
        self._total.seconds += rollouts.seconds
        played = [trajectory for group in groups for trajectory in group]
        self._last = {
            **metrics,
            **_summary(played, rollouts),
            "iteration": self._iterations,
            "updated": updated,
            "seconds": time.perf_counter() - started,
            "seconds_by_phase": phases or {"rollouts": rollouts.seconds},
        }
        return {**self._last, "trajectories": played, "rewards": [item.reward for item in played]}

    def get_metrics(self) -> dict[str, Any]:
        """``active_workers`` (episodes that may run at a time), ``busy_workers`` (that do),
        ``engine_metrics`` (counts over all iterations; what is a second, over the last eight), and the
        last iteration's numbers."""
        trainer = self._trainer
        return {
            "active_workers": self._workers,
            "busy_workers": self._rollouts.active if self._rollouts else 0,
            "iterations": self._iterations,
            "updates": trainer.updates if trainer else 0,
            "policy_version": trainer.policy.version if trainer and trainer.policy else 0,
            "trainable": trainer is not None,
            "engine_metrics": {
                **self._total.as_dict(),
                "prompt_tokens": self._total.prompt_tokens,
                **rates(self._recent),
            },
            "last_iteration": self._last,
        }

    def scale_computation(self, factor: float) -> int:
        """Let ``factor`` times as many episodes run side by side, also while they run; how many now."""
        if not (factor > 0 and math.isfinite(factor)):
            raise ConfigError(f"scale_computation: the factor is {factor}; give a number above 0")
        self._workers = max(1, round(self._workers * factor))
        if self._rollouts is not None:
            self._rollouts.concurrency = self._workers
        return self._workers

    async def save(self, path: str | Path) -> None:
        """Write the trained adapter as a directory. Raises ``CapabilityError`` if nothing is trained."""
        await self._started()
        if self._trainer is None:
            raise CapabilityError("there is nothing to save: the agent is not trained")
        await self._trainer.save(expanded(path))

    async def close(self) -> None:
        """Let go of the trainer; the agent, with the weights it has learnt, is its owner's."""
        trainer, self._trainer = self._trainer, None
        self._rollouts = None
        if trainer is not None:
            await trainer.close()

    async def __aenter__(self) -> ComputationalEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _started(self) -> RolloutEngine:
        agent = await as_agent(self.agent)
        if self._rollouts is not None:
            # The agent may have got other tools or another strategy meanwhile.
            sampling = self._rollouts.agent.sampling
            self._rollouts.agent = replace(agent, sampling=sampling) if self._trainer else agent
            return self._rollouts
        trains = is_trainable(agent) if self._wants_training is None else self._wants_training
        engine = RolloutEngine(
            agent,
            self._environment,
            self._rewards,
            environment_name=self._name,
            concurrency=self._workers,
            episode_seconds=self._episode_seconds,
            observers=[self._total.add],
        )
        if trains:
            self._trainer = OnlineTrainer(engine, self.settings, seed=self._seed)
        self._rollouts = engine
        return engine

    def _tasks(self, prompts: Sequence[str | Task]) -> list[Task]:
        if isinstance(prompts, str) or not prompts:
            raise ConfigError("train_iteration: give a list of at least one prompt")
        if self._prompted:
            return [
                item if isinstance(item, Task) else prompt_task(item, f"prompt-{index}")
                for index, item in enumerate(prompts)
            ]
        known = {task.id: task for task in self._environment().tasks("train")}
        unknown = [item for item in prompts if isinstance(item, str) and item not in known]
        if unknown:
            raise ConfigError(
                f"train_iteration: {self._name} poses tasks of its own, and none has the id {unknown[0]!r}; "
                f"give tasks, or their ids such as {next(iter(known), None)!r}"
            )
        return [known[item] if isinstance(item, str) else item for item in prompts]

    def _seed_of(self, task: Task, sample: int) -> int:
        return derive_seed(self._seed, self._iterations, task.id, sample)


def _summary(played: Sequence[Trajectory], rollouts: RolloutMetrics) -> dict[str, Any]:
    rewards = [item.reward for item in played if item.reward is not None]
    parts: dict[str, list[float]] = {}
    errors: Counter[str] = Counter(item.error for item in played if item.error)
    for item in played:
        for name, record in item.rewards.items():
            if record.value is not None:
                parts.setdefault(name, []).append(record.value)
                for part, value in record.parts.items():
                    parts.setdefault(f"{name}/{part}", []).append(value)
            elif record.error:
                errors[f"{name}: {record.error}"] += 1
    return {
        "average_reward": statistics.fmean(rewards) if rewards else math.nan,
        "parts": {name: statistics.fmean(values) for name, values in parts.items()},
        "failed": len(played) - len(rewards),
        "errors": dict(errors),
        "rollouts": rollouts.as_dict(),
    }


def create_computational_engine(
    agent: object,
    environment: object,
    reward_function: object = None,
    num_workers: int = 4,
    **options: Any,
) -> ComputationalEngine:
    """An engine for ``agent`` in ``environment``, ``num_workers`` episodes side by side.

    ``agent``: a ``MultiTurnAgent``, or an ``Agent`` with ``generate_response``. ``environment``: one
    that is copied for each episode, or a class or function that makes one. ``reward_function``: a
    reward, a list of rewards (each with its own ``weight``), or a function of (trajectory) or of
    (turns, context); None: the environment's own. ``options``: those of ``ComputationalEngine``.
    """
    return ComputationalEngine(agent, environment, reward_function, num_workers=num_workers, **options)

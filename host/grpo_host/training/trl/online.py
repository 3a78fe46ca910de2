"""GRPO one update at a time, on tasks that are known only when it is asked for.

For callers who hold the loop themselves: an object in a notebook, a service. A run from beginning
to end, with checkpoints and a report, is ``grpo_host.training.training_run``.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpo_host.assembly.from_python.agents import is_trainable
from grpo_host.config.schema import TrainingConfig
from grpo_host.config.training_checks import check_online, check_update
from grpo_host.rollouts.engine import RolloutEngine, RolloutMetrics, group_requests
from grpo_host.training.trained_backend import served, trained
from grpo_host.training.trl.reference import give_reference, take_reference
from grpo_host.training.trl.rows import has_reward_variance
from grpo_host.utils.validation import say_location
from grpo_sdk.errors import CapabilityError, ConfigError
from grpo_sdk.seeds import derive_seed, global_generators_kept
from grpo_sdk.trajectory import Task, Trajectory

if TYPE_CHECKING:
    from grpo_host.training.finite import FiniteUpdates
    from grpo_host.training.policy import Policy

T = TypeVar("T")

FEW_UPDATES: dict[str, Any] = {"group_size": 8, "learning_rate": 1.0e-3}
"""Settings under which ten updates show in the mean reward: a run's are for more of them, and its schedule
brings the rate down."""


@dataclass(frozen=True, slots=True)
class OnlineStep:
    """What one step came to."""

    groups: list[list[Trajectory]]
    """Scored, a group a task."""
    rollouts: RolloutMetrics
    updated: bool
    """A GRPO update was made; not if no group's rewards differ, which teaches nothing, nor from a
    gradient that is not finite."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The trainer's, if there was something to learn: ``loss``, ``grad_norm``, ``entropy``, …"""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase."""


class OnlineTrainer:
    """Plays groups of episodes with the engine's agent and updates its weights on them.

    The optimizer's state lives from step to step, and after each step the agent's backend samples
    from the new weights. ``settings``: those of ``training`` in agent.yaml that concern one update.
    One step at a time; all of them, and the engine, in one event loop.
    """

    def __init__(
        self, engine: RolloutEngine, settings: TrainingConfig | None = None, *, seed: int = 0
    ) -> None:
        agent = engine.agent
        if not is_trainable(agent):
            raise CapabilityError(
                f"the backend {type(agent.backend).__name__} cannot be trained with; choose one with "
                "token ids, logprobs and weight sync that loads a local model, such as transformers or vllm"
            )
        if agent.sampling.temperature == 0:
            raise ConfigError(
                "temperature 0: all episodes of a group are the same and nothing is learnt. Train at 1.0"
            )
        self.settings = settings or TrainingConfig(**FEW_UPDATES)
        for complaint in (*check_update(self.settings), *check_online(self.settings)):
            raise ConfigError(f"{say_location(complaint.location)}: {complaint.message}")
        # The gradient is biased where samples do not come from the whole distribution.
        engine.agent = agent.sampled(top_p=1.0, top_k=0)
        self.engine = engine
        self.seed = seed
        self.steps = 0
        self.updates = 0
        self.policy: Policy | None = None
        self._optimizer: Any = None
        self._watch: FiniteUpdates | None = None
        self._busy = asyncio.Lock()
        # One thread for all updates: each thread that runs torch keeps a pool of its own.
        self._worker = ThreadPoolExecutor(1, "grpo-online-trainer")

    async def step(self, tasks: Sequence[Task]) -> OnlineStep:
        """Play each of ``tasks`` as a group, score it, and update the policy if there is something to learn.

        Raises ``ModelError`` where the policy cannot be loaded, ``BusyError`` where
        others leave no moment to hand the new weights over, ``RunError`` if weights or too many
        gradients in a row are not finite.
        """
        async with self._busy:
            if self.policy is None:
                self.policy = await self._work(self._load)
            policy, started = self.policy, time.perf_counter()
            self.steps += 1
            requests = group_requests(
                tasks,
                self.settings.group_size,
                seed=lambda task, sample: derive_seed(self.seed, self.steps, task.id, sample),
                label=str(self.steps),
            )
            groups, rollouts = await self.engine.run(requests, policy_version=policy.version)
            played = time.perf_counter()
            seconds = {"rollouts": played - started}
            if not any(has_reward_variance(group) for group in groups):
                return OnlineStep(groups, rollouts, updated=False, seconds=seconds)
            updated, metrics = await self._work(lambda: self._update(policy, groups))
            trained_at = time.perf_counter()
            seconds["training"] = trained_at - played
            if not updated:
                return OnlineStep(groups, rollouts, updated=False, metrics=metrics, seconds=seconds)
            self.updates += 1
            await policy.sync(self.engine.agent.backend)
            trained(self.engine.agent.backend, policy)
            seconds["weight_sync"] = time.perf_counter() - trained_at
            return OnlineStep(groups, rollouts, updated=True, metrics=metrics, seconds=seconds)

    async def save(self, path: Path) -> None:
        """Write the adapter (or the model, if it is trained whole) as a directory at ``path``."""
        async with self._busy:
            if self.policy is None:
                self.policy = await self._work(self._load)
            path.parent.mkdir(parents=True, exist_ok=True)
            policy = self.policy
            await self._work(lambda: policy.save(path))

    async def close(self) -> None:
        """Let go of the policy. The agent's backend keeps the weights and stays open."""
        async with self._busy:
            if self.policy is not None:
                await self._work(lambda: served(self.engine.agent.backend))
            self.policy = self._optimizer = None
            self._worker.shutdown(wait=False)

    async def _work(self, function: Callable[[], T]) -> T:
        def work() -> T:
            with global_generators_kept():
                return function()

        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    # What follows runs in the worker's thread.

    def _load(self) -> Policy:
        from grpo_host.training.policy import load_policy

        spec = served(self.engine.agent.backend)
        if spec.path is None:
            raise ValueError("a trainable backend has a local model")
        return load_policy(
            spec.path,
            dtype=spec.dtype,
            lora=self.settings.lora,
            adapter=spec.adapter,
            seed=self.seed,
            mixed_precision=self.settings.mixed_precision,
            hub_id=spec.hub_id,
        )

    def _update(
        self, policy: Policy, groups: Sequence[Sequence[Trajectory]]
    ) -> tuple[bool, dict[str, float]]:
        """Whether the weights were updated, and the trainer's metrics."""
        from grpo_host.training.finite import FiniteUpdates
        from grpo_host.training.trl.grpo import grpo_arguments, make_trainer

        watch = self._watch = self._watch or FiniteUpdates()
        rows = [trajectory for group in groups for trajectory in group]
        agent = self.engine.agent
        reference = take_reference(policy.model)
        # The trainer wants a directory and, as it saves nothing, leaves it empty.
        with tempfile.TemporaryDirectory(prefix="grpo-online-") as directory:
            trainer = make_trainer(
                policy,
                grpo_arguments(
                    self.settings,
                    Path(directory),
                    rows=len(rows),
                    steps=1,
                    temperature=agent.sampling.temperature,
                    context=agent.backend.model.context,
                    seed=derive_seed(self.seed, self.steps),
                    autocast=policy.autocast,
                    saves=False,
                ),
                slots=range(len(groups)),
                rollout=lambda _rows, _trainer: rows,
                rewards=self.engine.rewards.rewards,
                settings=self.settings,
                optimizer=self._optimizer,
                updates=watch,
            )
            give_reference(policy.model, reference)
            try:
                trainer.train()
            finally:
                restore_forward(policy.model)
        self._optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        logs = next(line for line in trainer.state.log_history if "loss" in line)
        metrics = {name: float(value) for name, value in logs.items() if isinstance(value, int | float)}
        return not watch.skipped, metrics


def restore_forward(model: Any) -> None:
    """Take off what a trainer has put around the model's forward: the next one puts its own there."""
    for module in (model, model.get_base_model() if hasattr(model, "peft_config") else model):
        for name in ("forward", "_original_forward"):
            vars(module).pop(name, None)

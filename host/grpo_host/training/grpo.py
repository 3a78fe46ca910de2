"""GRPO: which tasks a step plays, how their trajectories reach the trainer, and the trainer's settings."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig

from grpo_host.config.schema import AgentConfig
from grpo_host.episode import EpisodeRequest
from grpo_host.loop import LoopThread
from grpo_host.progress import Reporter
from grpo_host.rollouts import RolloutEngine, RolloutMetrics
from grpo_host.run_directory import RunDirectory
from grpo_host.training.callbacks import (
    CompleteCheckpoints,
    StepMetrics,
    StopOnSignal,
    checkpoint_path,
    mark_complete,
)
from grpo_host.training.devices import precision_arguments
from grpo_host.training.interrupt import Interrupt, StopTraining
from grpo_host.training.policy import Policy
from grpo_host.training.trainer import HostGRPOTrainer, ImportanceSampling
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task, Trajectory


def task_order(tasks: Sequence[Task], steps: int, per_step: int, *, seed: int) -> list[Task]:
    """``steps * per_step`` tasks: every task once before any comes again, each round shuffled anew."""
    order: list[Task] = []
    generator = random.Random(derive_seed(seed, "task-order"))
    while len(order) < steps * per_step:
        round_ = list(tasks)
        generator.shuffle(round_)
        order += round_
    return order[: steps * per_step]


@dataclass
class GrpoRollouts:
    """Plays the episodes that a training step asks for, from the current weights."""

    engine: RolloutEngine
    policy: Policy
    loop: LoopThread
    reporter: Reporter
    interrupt: Interrupt
    order: Sequence[Task]
    group_size: int
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: RolloutMetrics = field(default_factory=RolloutMetrics)

    def __call__(self, rows: Sequence[dict[str, Any]], trainer: HostGRPOTrainer) -> list[Trajectory]:
        """One trajectory a row. Rows of one task come together or apart; each is its own sample."""
        self.interrupt.check()
        step = trainer.state.global_step + 1
        started = time.perf_counter()
        self.loop.run(self.policy.sync(self.engine.agent.backend), check=self.interrupt.check)
        synced = time.perf_counter()
        groups = self._groups(rows, step)
        total = sum(len(group) for group in groups.values())
        with self.reporter.phase(f"step {step}: rollouts", total) as advance:
            played, self.metrics = self.loop.run(
                self.engine.run(
                    list(groups.values()),
                    policy_version=self.policy.version,
                    on_episode=lambda _: advance(),
                ),
                check=self.interrupt.check,
            )
        self.seconds = {
            "weight_sync": synced - started,
            "rollouts": time.perf_counter() - synced,
        }
        queues = {slot: iter(group) for slot, group in zip(groups, played, strict=True)}
        return [next(queues[row["slot"]]) for row in rows]

    def _groups(self, rows: Sequence[dict[str, Any]], step: int) -> dict[int, list[EpisodeRequest]]:
        groups: dict[int, list[EpisodeRequest]] = {}
        for row in rows:
            slot = row["slot"]
            task = self.order[slot]
            sample = len(groups.setdefault(slot, []))
            groups[slot].append(
                EpisodeRequest(
                    task=task,
                    sample=sample,
                    seed=derive_seed(self.seed, step, task.id, sample),
                    environment_seed=derive_seed(self.seed, step, task.id, "environment"),
                    id=f"{step}/{task.id}/{sample}",
                )
            )
        return groups

    def phases(self) -> dict[str, float]:
        """Timings and counts of the last step, for its line of metrics.jsonl."""
        rollout = self.metrics.as_dict()
        rollout.pop("seconds")
        return {
            **{f"seconds/{name}": value for name, value in self.seconds.items()},
            **{f"rollouts/{name}": value for name, value in rollout.items()},
        }


def grpo_arguments(config: AgentConfig, checkpoints: Path) -> GRPOConfig:
    """TRL's settings for ``config``."""
    training, sampling = config.training, config.sampling
    batch = training.tasks_per_step * training.group_size
    accumulation = batch // training.micro_batch
    return GRPOConfig(
        output_dir=str(checkpoints),
        max_steps=training.steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_schedule,
        max_grad_norm=training.max_grad_norm,
        per_device_train_batch_size=training.micro_batch,
        gradient_accumulation_steps=accumulation,
        # One optimizer step a batch: the policy that is optimised is the one that sampled.
        steps_per_generation=accumulation,
        num_iterations=1,
        num_generations=training.group_size,
        temperature=sampling.temperature,
        top_p=1.0,
        top_k=0,
        beta=training.beta,
        epsilon=training.epsilon,
        scale_rewards=training.scale_rewards,
        max_completion_length=config.model.context,
        mask_truncated_completions=False,
        shuffle_dataset=False,
        logging_steps=1,
        save_steps=training.save_every,
        save_total_limit=2,
        report_to=training.report_to or [],
        disable_tqdm=True,
        gradient_checkpointing=False,
        seed=config.seed,
        # Rows stand in the order in which steps take them: a resumed run is given the rest.
        ignore_data_skip=True,
        **precision_arguments(),
    )


def train_grpo(
    config: AgentConfig,
    rollouts: GrpoRollouts,
    directory: RunDirectory,
    *,
    resume_from: Path | None,
    first_step: int,
    show: Callable[[int, Any], None],
    state: Callable[[], dict[str, Any]],
) -> bool:
    """Train until the last step or a signal; True where it was finished. Checkpoints as it goes.

    Raises ``RunError`` where a checkpoint cannot be written.
    """
    training = config.training
    slots = range(first_step * training.tasks_per_step, training.steps * training.tasks_per_step)
    trainer = HostGRPOTrainer(
        model=rollouts.policy.model,
        args=grpo_arguments(config, directory.checkpoints),
        train_dataset=Dataset.from_list([{"prompt": str(slot), "slot": slot} for slot in slots]),
        tokenizer=rollouts.policy.tokenizer,
        rollout=rollouts,
        reward_names=[reward.name for reward in config.rewards],
        reward_weights=[reward.weight for reward in config.rewards],
        importance_sampling=ImportanceSampling(
            training.importance_sampling, training.importance_sampling_cap
        ),
        callbacks=[
            StepMetrics(directory, rollouts.phases, show),
            StopOnSignal(rollouts.interrupt),
            CompleteCheckpoints(state),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        return not rollouts.interrupt.requested
    except StopTraining:
        _save_now(trainer, directory.checkpoints, state())
        return False


def _save_now(trainer: HostGRPOTrainer, checkpoints: Path, state: dict[str, Any]) -> None:
    """Save the last finished step; nothing to do before the first one."""
    step = trainer.state.global_step
    checkpoint = checkpoint_path(checkpoints, step)
    if step == 0 or checkpoint.exists():
        return
    trainer._save_checkpoint(trainer.model, None)
    mark_complete(checkpoint, state)

"""GRPO: which tasks a step plays, how their trajectories reach the trainer, and the trainer's settings."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig

from grpo_host.backends.event_loop import Runner
from grpo_host.config.schema import AgentConfig, TrainingConfig
from grpo_host.rollouts.engine import Observer, RolloutEngine, RolloutMetrics
from grpo_host.rollouts.episode import EpisodeRequest
from grpo_host.rollouts.evaluation import most_frequent_failure
from grpo_host.rollouts.scoring import WeightedReward
from grpo_host.runs.directory import RunDirectory
from grpo_host.training.checkpoints import checkpoint_path, complete_checkpoint
from grpo_host.training.devices import largest_share, precision_arguments
from grpo_host.training.early_stopping import EarlyStopping
from grpo_host.training.finite import FiniteUpdates
from grpo_host.training.interrupt import Interrupt, StopTraining
from grpo_host.training.policy import Policy
from grpo_host.training.ranks.process_group import Ranks
from grpo_host.training.telemetry import TrainingTelemetry
from grpo_host.training.trl.callbacks import CompleteCheckpoints, StepMetrics, StopEarly, StopOnSignal
from grpo_host.training.trl.reference import penalise_from_base, penalise_from_start
from grpo_host.training.trl.trainer import HostGRPOTrainer, ImportanceSampling, Rollout
from grpo_host.utils.progress import Reporter
from grpo_sdk.errors import RunError
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task, Trajectory

UNSCORED_STEPS = 3
"""Without a single reward, until a run is given up."""


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
    loop: Runner
    reporter: Reporter
    interrupt: Interrupt
    order: Sequence[Task]
    training: TrainingConfig
    seed: int
    ranks: Ranks = field(default_factory=Ranks)
    observers: Sequence[Observer] = ()
    """Hear of other ranks' trajectories; the engine's own observers hear of this rank's."""
    seconds: dict[str, float] = field(default_factory=dict)
    metrics: RolloutMetrics = field(default_factory=RolloutMetrics)
    unscored: int = 0
    """Steps in a row in which not one episode had a reward."""

    def __call__(self, rows: Sequence[dict[str, Any]], trainer: HostGRPOTrainer) -> list[Trajectory]:
        """One trajectory a row. Rows of one task come together or apart; each is its own sample.

        Raises ``RunError`` where steps go by in which nothing can be learnt, since nothing is scored.
        """
        self.interrupt.check()
        step = trainer.state.global_step + 1
        started = time.perf_counter()
        self.loop.run(self.policy.sync(self.engine.agent.backend), check=self.interrupt.check)
        synced = time.perf_counter()
        groups = self._groups(rows, step)
        total = sum(len(group) for group in groups.values())
        with self.reporter.phase(f"step {step}: rollouts", total) as advance:
            played, _ = self.loop.run(
                self.engine.run(
                    list(groups.values()),
                    policy_version=self.policy.version,
                    on_episode=lambda _: advance(),
                ),
                check=self.interrupt.check,
            )
        everyone = gather_played([item for group in played for item in group], self.ranks, self.observers)
        self.metrics = RolloutMetrics(seconds=time.perf_counter() - synced)
        for trajectory in everyone:
            self.metrics.add(trajectory)
        self.seconds = {
            "weight_sync": synced - started,
            "rollouts": time.perf_counter() - synced,
        }
        self._give_up_unscored(everyone)
        queues = {slot: iter(group) for slot, group in zip(groups, played, strict=True)}
        return [next(queues[row["slot"]]) for row in rows]

    def _give_up_unscored(self, played: Sequence[Trajectory]) -> None:
        self.unscored = self.unscored + 1 if all(item.reward is None for item in played) else 0
        if self.unscored == UNSCORED_STEPS:
            raise RunError(
                f"not one episode of {UNSCORED_STEPS} steps has a reward; what failed most: "
                f"{most_frequent_failure(played)}. Their trajectories are in trajectories.jsonl; mend it and "
                "go on with --resume"
            )

    def _groups(self, rows: Sequence[dict[str, Any]], step: int) -> dict[int, list[EpisodeRequest]]:
        groups: dict[int, list[EpisodeRequest]] = {}
        for slot, samples in Counter(row["slot"] for row in rows).items():
            task = self.order[slot]
            # Where there are few tasks, one comes twice in a step: its episodes are told apart.
            step_begins = slot - slot % self.training.tasks_per_step
            again = sum(earlier.id == task.id for earlier in self.order[step_begins:slot])
            first = again * self.training.group_size
            groups[slot] = [
                EpisodeRequest(
                    task=task,
                    sample=sample,
                    seed=derive_seed(self.seed, step, task.id, sample),
                    environment_seed=derive_seed(self.seed, step, task.id, "environment"),
                    id=f"{step}/{task.id}/{sample}",
                )
                for sample in range(first, first + samples)
            ]
        return groups

    def phases(self) -> dict[str, float]:
        """Timings and counts of the last step, for its line of metrics.jsonl."""
        rollout = self.metrics.as_dict()
        rollout.pop("seconds")
        visible = self.policy.visible_update
        return {
            **({"weights/visible_update": visible} if visible is not None else {}),
            **{f"seconds/{name}": value for name, value in self.seconds.items()},
            **{f"rollouts/{name}": value for name, value in rollout.items()},
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


def grpo_arguments(
    training: TrainingConfig,
    checkpoints: Path,
    *,
    rows: int,
    steps: int,
    temperature: float,
    context: int,
    seed: int,
    autocast: bool = False,
    saves: bool = True,
) -> GRPOConfig:
    """TRL's settings for ``steps`` steps of ``rows`` episodes each in this process."""
    micro_batch = largest_share(rows, training.micro_batch)
    accumulation = rows // micro_batch
    return GRPOConfig(
        output_dir=str(checkpoints),
        max_steps=steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_schedule,
        max_grad_norm=training.max_grad_norm,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        # One optimizer step a batch: the policy that is optimised is the one that sampled.
        steps_per_generation=accumulation,
        num_iterations=1,
        num_generations=training.group_size,
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        beta=training.beta,
        epsilon=training.epsilon,
        scale_rewards=training.scale_rewards,
        max_completion_length=context,
        mask_truncated_completions=False,
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="steps" if saves else "no",
        save_steps=training.save_every,
        save_total_limit=None,  # transformers goes by the files' times; complete_checkpoint by steps
        report_to=training.report_to or [],
        disable_tqdm=True,
        gradient_checkpointing=False,
        seed=seed,
        # Rows stand in the order in which steps take them: a resumed run is given the rest.
        ignore_data_skip=True,
        **precision_arguments(autocast=autocast),
    )


def make_trainer(
    policy: Policy,
    arguments: GRPOConfig,
    *,
    slots: Sequence[int],
    rollout: Rollout,
    rewards: Sequence[WeightedReward],
    settings: TrainingConfig,
    callbacks: Sequence[Any] = (),
    optimizer: Any = None,
    updates: FiniteUpdates | None = None,
) -> HostGRPOTrainer:
    """A trainer whose rows are those of ``slots``, each repeated for its group, in their order."""
    trainer = HostGRPOTrainer(
        model=policy.model,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": str(slot), "slot": slot} for slot in slots]),
        tokenizer=policy.tokenizer,
        rollout=rollout,
        reward_names=[item.name for item in rewards],
        reward_weights=[item.weight for item in rewards],
        importance_sampling=ImportanceSampling(
            settings.importance_sampling, settings.importance_sampling_cap
        ),
        callbacks=callbacks,
        optimizer=optimizer,
        updates=updates,
    )
    trainer.remove_callback(PrinterCallback)
    if settings.reference == "base":
        penalise_from_base(policy.model)
    return trainer


def train_grpo(
    config: AgentConfig,
    rollouts: GrpoRollouts,
    directory: RunDirectory,
    *,
    resume_from: Path | None,
    first_step: int,
    start: Path | None,
    show: Callable[[int, Any], None],
    state: Callable[[], dict[str, Any]],
    early: EarlyStopping | None = None,
    telemetry: TrainingTelemetry | None = None,
) -> bool:
    """Train until the last step, ``early`` stopping or a signal; False after a signal.

    ``start``: the adapter that step 1 began with; None where that was a new one.
    Checkpoints are saved as it goes.

    Raises ``RunError`` where a checkpoint cannot be written, or weights or too many gradients are not finite.
    """
    training, ranks, policy = config.training, rollouts.ranks, rollouts.policy
    slots = range(first_step * training.tasks_per_step, training.steps * training.tasks_per_step)
    if telemetry:
        show = telemetry.show(show)
    trainer = make_trainer(
        policy,
        grpo_arguments(
            training,
            directory.checkpoints,
            rows=training.tasks_per_step * training.group_size // ranks.size,
            steps=training.steps,
            temperature=config.sampling.temperature,
            context=config.model.context,
            seed=config.seed,
            autocast=policy.autocast,
        ),
        slots=slots,
        rollout=rollouts,
        rewards=rollouts.engine.rewards.rewards,
        settings=training,
        callbacks=[
            *([telemetry] if telemetry else []),
            *([StopEarly(early)] if early else []),
            *([StepMetrics(directory, rollouts.phases, show)] if ranks.main else []),
            StopOnSignal(rollouts.interrupt),
            CompleteCheckpoints(state, ranks),
        ],
    )
    if resume_from and training.reference == "start":
        penalise_from_start(policy.model, start)
    with telemetry.watching(trainer, rollouts) if telemetry else nullcontext():
        try:
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
            return not rollouts.interrupt.requested
        except StopTraining:
            _save_now(trainer, directory.checkpoints, state(), ranks)
            return False


def _save_now(trainer: HostGRPOTrainer, checkpoints: Path, state: dict[str, Any], ranks: Ranks) -> None:
    """Save the last finished step; nothing to do before the first one."""
    step = trainer.state.global_step
    if step == 0 or ranks.agree(checkpoint_path(checkpoints, step).exists()):
        return
    trainer.state.num_input_tokens_seen = trainer.tokens_before  # the step that was left is done anew
    trainer._save_checkpoint(trainer.model, None)
    complete_checkpoint(checkpoints, step, state, ranks)

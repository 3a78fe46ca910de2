"""GRPO with TRL: the trainer's settings, its making, and its run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig

from grpo_host.config.schema import AgentConfig, TrainingConfig
from grpo_host.rollouts.scoring import WeightedReward
from grpo_host.runs.directory import RunDirectory
from grpo_host.training.checkpoints import checkpoint_path, complete_checkpoint
from grpo_host.training.devices import largest_share, precision_arguments
from grpo_host.training.early_stopping import EarlyStopping
from grpo_host.training.finite import FiniteUpdates
from grpo_host.training.interrupt import StopTraining
from grpo_host.training.policy import Policy
from grpo_host.training.ranks.process_group import Ranks
from grpo_host.training.telemetry import TrainingTelemetry
from grpo_host.training.trl.callbacks import CompleteCheckpoints, StepMetrics, StopEarly, StopOnSignal
from grpo_host.training.trl.recorded_tokens import TokenRecorder
from grpo_host.training.trl.reference import (
    penalise_from_base,
    penalise_from_policy,
    penalise_from_start,
)
from grpo_host.training.trl.rollouts import GrpoRollouts
from grpo_host.training.trl.steps import step_under_way
from grpo_host.training.trl.trainer import HostGRPOTrainer, ImportanceSampling, Rollout


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
    """TRL's settings for ``steps`` steps of ``rows`` episodes each in this process.

    If a step has several updates, each is a step to transformers: see ``steps``.
    """
    micro_batch = largest_share(rows // training.minibatches, training.micro_batch)
    accumulation = rows // training.minibatches // micro_batch
    updates = training.iterations * training.minibatches
    cispo = training.loss == "cispo"
    warm = training.lr_schedule == "constant" and training.warmup_steps
    return GRPOConfig(
        output_dir=str(checkpoints),
        max_steps=steps * updates,
        learning_rate=training.learning_rate,
        lr_scheduler_type="constant_with_warmup" if warm else training.lr_schedule,
        warmup_steps=training.warmup_steps * updates,
        optim=training.optimizer,
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation * training.minibatches,
        num_iterations=training.iterations,
        num_generations=training.group_size,
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        beta=training.beta,
        loss_type=training.loss,
        importance_sampling_level=training.importance_sampling_level,
        epsilon=training.epsilon,
        # ScaleRL's value (arXiv 2510.13786); TRL would take epsilon's, to which cispo would clamp all ratios.
        epsilon_high=5.0 if cispo and training.epsilon_high is None else training.epsilon_high,
        scale_rewards=training.scale_rewards,
        multi_objective_aggregation=training.multi_objective_aggregation,
        entropy_coef=training.entropy_coef,
        top_entropy_quantile=training.top_entropy_quantile,
        max_completion_length=context,
        mask_truncated_completions=training.mask_truncated_completions,
        shuffle_dataset=False,
        logging_steps=updates,
        save_strategy="steps" if saves else "no",
        save_steps=training.save_every * updates,
        save_total_limit=None,  # transformers goes by the files' times; complete_checkpoint by steps
        report_to=training.report_to or [],
        disable_tqdm=True,
        gradient_checkpointing=training.gradient_checkpointing,
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
        drop_equal_groups=settings.drop_equal_groups,
        max_tokens=settings.max_tokens,
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
    reference: Callable[[], Policy],
    show: Callable[[int, Any], None],
    state: Callable[[int], dict[str, Any]],
    early: EarlyStopping | None = None,
    telemetry: TrainingTelemetry | None = None,
) -> bool:
    """Train until the last step, ``early`` stopping or a signal; False after a signal.

    ``start``: the adapter that step 1 began with; None if that was a new one. ``reference`` loads what a
    whole model is held near to. Checkpoints are saved as it goes, each with ``state(step)`` of its step.

    Raises ``RunError`` if a checkpoint cannot be written, or weights or too many gradients are not finite.
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
    if training.record_tokens and ranks.main:
        trainer.record_tokens = TokenRecorder(training.record_tokens, directory.append_tokens)
    if trainer.ref_model is not None:
        penalise_from_policy(trainer, reference())
    elif resume_from and training.reference == "start":
        penalise_from_start(policy.model, start)
    with telemetry.watching(trainer, rollouts) if telemetry else nullcontext():
        try:
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
            return not rollouts.interrupt.requested
        except StopTraining:
            _save_now(trainer, directory.checkpoints, state, ranks)
            return False


def _save_now(
    trainer: HostGRPOTrainer, checkpoints: Path, state: Callable[[int], dict[str, Any]], ranks: Ranks
) -> None:
    """Save the last finished step; nothing to do before the first one."""
    step = trainer.state.global_step
    if step == 0 or ranks.broadcast(checkpoint_path(checkpoints, step).exists()):
        return
    trainer.state.num_input_tokens_seen = trainer.tokens_before  # the step that was left is done anew
    trainer._save_checkpoint(trainer.model, None)
    complete_checkpoint(checkpoints, step, state(step_under_way(trainer.args, trainer.state) - 1), ranks)

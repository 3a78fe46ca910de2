"""TRL's ``GRPOTrainer``, fed with trajectories.

What TRL 1.16 asks of a custom rollout and this class answers:

- Only prompts reach ``rollout_func``: the batch's rows are kept from ``_generate_and_score_completions``.
- A prompt has one completion: here it has one episode, of one or more rows. Rewards, baselines and advantages
  are an episode's; each of its rows carries its advantage, times its weight, and times what makes the loss
  what it would be if each episode were one row (``normalisation``).
- The importance-sampling correction, which TRL makes only for its own vLLM, is made here from the
  log-probs that our backend sampled with, and logged under TRL's names.
- Of several optimizer steps a batch, the policy before the first is the one that ratios are taken to.
- Rewards are computed by the host on whole trajectories.
- Tokens that were sampled under a grammar are scored among what it allowed, as the sampler did.
- A token without a finite log-prob does not destroy the step, and a step from which nothing can be
  learnt makes no update: the optimizer's momentum alone would move the weights.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from trl import GRPOConfig

from grpo_host.agents.tracing import Phase
from grpo_host.training.checkpoints import checkpoint_error
from grpo_host.training.cpu.fast_pass import FastGRPOTrainer
from grpo_host.training.finite import FiniteUpdates, TrueLosses
from grpo_host.training.limits import Limits, find_limits
from grpo_host.training.lora import precision_kept
from grpo_host.training.ranks.sharded_checkpoints import ShardedCheckpoints
from grpo_host.training.trl.normalisation import part_factor, row_factors, token_share
from grpo_host.training.trl.rows import (
    empty_row,
    has_reward_variance,
    make_rows,
    reward_columns,
    was_truncated,
)
from grpo_host.training.trl.steps import step_under_way
from grpo_sdk.grammar import Grammars
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Trajectory

if TYPE_CHECKING:
    from datasets import Dataset

    from grpo_host.training.trl.recorded_tokens import TokenRecorder

Rollout = Callable[[Sequence[dict[str, Any]], "HostGRPOTrainer"], list[Trajectory]]
"""From a batch's rows to one trajectory a row, in their order."""


@dataclass(frozen=True, slots=True)
class ImportanceSampling:
    """How the gap between the sampling and the training policy is corrected."""

    mode: str = "token_truncate"
    """``token_truncate``, ``token_mask``, ``sequence_truncate``, ``sequence_mask`` or ``none``."""
    cap: float = 2.0


class HostGRPOTrainer(TrueLosses, ShardedCheckpoints, FastGRPOTrainer):
    """A ``GRPOTrainer`` whose rollouts are our trajectories."""

    entropy_coef: float

    def __init__(
        self,
        *,
        model: Any,
        args: GRPOConfig,
        train_dataset: Dataset,
        tokenizer: Any,
        rollout: Rollout,
        reward_names: Sequence[str],
        reward_weights: Sequence[float],
        importance_sampling: ImportanceSampling,
        callbacks: Sequence[Any] = (),
        optimizer: Any = None,
        updates: FiniteUpdates | None = None,
        drop_equal_groups: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        self.drop_equal_groups = drop_equal_groups
        self.max_tokens = max_tokens
        """Of a forward pass; None: any."""
        self.updates = updates or FiniteUpdates()
        args.logging_nan_inf_filter = False
        args.reward_weights = list(reward_weights)
        # TRL warns that rollout_func is experimental: it is pinned and tested here.
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        with precision_kept(model):
            super().__init__(
                model=model,
                args=args,
                train_dataset=train_dataset,
                processing_class=tokenizer,
                reward_funcs=[_named(name) for name in reward_names],
                rollout_func=_rollout_func,
                callbacks=[self.updates, *callbacks],
                optimizers=(optimizer, None),
            )
        # TRL looks at a row's last id: here it is the episode that was cut.
        self.mask_truncated_completions = False
        self.rollout = rollout
        self.tokens_before = 0
        """How many tokens were seen before the step under way."""
        self.phase: Phase = nullcontext
        """Watches rollouts, and how checkpoints are written."""
        self.record_tokens: TokenRecorder | None = None
        """Is shown every row of a loss."""
        self.reward_names = list(reward_names)
        self.importance_sampling = importance_sampling
        self._rows: list[dict[str, Any]] = []
        self._played: list[Trajectory] = []
        """One for each of ``_rows``."""
        self._episode_of: list[int] = []
        """Of each row that the loss is computed from: its episode's place in ``_played``."""
        self._factors = torch.ones(0)
        """Of each such row's advantage."""
        self._limit_table: torch.Tensor | None = None
        """Of the batch's ``limits``, which travel with its rows."""
        self._grammars = Grammars(tokenizer, self.model.config.get_text_config().vocab_size)
        self._loss_inputs: dict[str, Any] | None = None
        self._nonfinite_logprobs = 0

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = inputs
        self.tokens_before = self.state.num_input_tokens_seen
        try:
            scored: dict[str, Any] = super()._generate_and_score_completions(inputs)
            if self._limits is not None:
                scored["limits"] = self._limits.which
                self._limit_table = self._limits.table
        finally:
            self._limits = None
        advantages = scored["advantages"]  # an episode's
        # Where rewards are all the same, TRL divides what rounding has left of their mean by almost nothing.
        advantages *= torch.tensor(self._has_variance(), device=advantages.device)
        factors = self._factors.to(advantages)
        scored["advantages"] = advantages = advantages[self._episode_of] * factors
        if self.record_tokens is not None:
            scored["row"] = torch.arange(len(advantages), device=advantages.device)
        # Not from this rank's rows alone: all ranks make the update, or none.
        largest = self.accelerator.gather(advantages.abs().max())
        others = self.beta or self.args.entropy_coef  # each has a gradient without any advantage
        self.updates.nothing_to_learn = not others and not bool(largest.any())
        # TRL shuffles the rows next, and sums depend on their order: a step that is done again after an
        # interruption, or in a process that drew other numbers before, is to be the same step.
        torch.manual_seed(derive_seed(self.args.seed, self.state.global_step, self.accelerator.process_index))
        return scored

    def _has_variance(self) -> list[bool]:
        """Of each episode: whether the rewards of its group differ."""
        groups = defaultdict(list)
        for row, item in zip(self._rows, self._played, strict=True):
            groups[row["slot"]].append(item)
        each = self.args.multi_objective_aggregation == "normalize_then_sum"
        differ = {slot: has_reward_variance(group, each=each) for slot, group in groups.items()}
        return [differ[row["slot"]] for row in self._rows]

    def _calculate_rewards(self, *_: Any) -> torch.Tensor:
        """What the host has computed, of the episodes of all ranks (episodes x rewards); NaN for None."""
        columns = reward_columns(self._played, self.reward_names)
        values = [[math.nan if value is None else value for value in columns[n]] for n in self.reward_names]
        own = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
        gathered: torch.Tensor = self.accelerator.gather(own.T.contiguous())
        return gathered

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        # A run that goes on does so with the settings that it is given now, not the checkpoint's.
        self.state.compute_steps(self.args, self.state.max_steps)  # how often to save
        scheduler, groups = self.lr_scheduler, self.optimizer.param_groups
        scheduler.base_lrs = [self.args.learning_rate] * len(groups)
        scheduler._last_lr = [
            rate(scheduler.last_epoch) * self.args.learning_rate for rate in scheduler.lr_lambdas
        ]
        for group, rate in zip(groups, scheduler.get_last_lr(), strict=True):
            group.update(initial_lr=self.args.learning_rate, lr=rate)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            count = torch.tensor(self._nonfinite_logprobs, device=self.accelerator.device)
            logs["sampling/nonfinite_logprobs"] = float(self.accelerator.gather(count).sum())
            logs.update(self.updates.metrics())
            self._nonfinite_logprobs = 0
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            with self.phase("checkpointing"):
                super()._save_checkpoint(model, trial)
        except Exception as problem:  # a full disk has as many types as there are writers
            raise checkpoint_error(problem, Path(self.args.output_dir)) from problem

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        # Where episodes have more than one row, a micro-batch has more rows than memory was planned for: it
        # is computed in parts, each with a backward pass of its own, that add up to TRL's loss of the whole.
        most = self._most_rows(inputs["prompt_ids"].size(1) + inputs["completion_ids"].size(1))
        if len(inputs["completion_ids"]) <= most:
            return self._loss_of(model, inputs)
        loss, done = torch.zeros(()), torch.zeros((), device=self.accelerator.device)
        whole, bonus = inputs["completion_mask"] * inputs["tool_mask"], self.entropy_coef
        for start in range(0, len(whole), most):
            if start:
                self.accelerator.backward(loss)
                done += loss.detach()
            rows = slice(start, start + most)
            factor = part_factor(self.loss_type, whole[rows], whole)
            # TRL adds the mean entropy of what it is given.
            self.entropy_coef = bonus * token_share(whole[rows], whole) / factor if factor else 0.0
            try:
                part = {name: _rows_of(value, rows) for name, value in inputs.items()}
                loss = self._loss_of(model, part) * factor
            finally:
                self.entropy_coef = bonus
        return loss + done

    def _most_rows(self, width: int) -> int:
        """How many rows of ``width`` tokens a pass through the model holds."""
        rows = int(self.args.per_device_train_batch_size)
        if self.max_tokens is None:
            return rows
        # Ranks that share the model, or its gradients, go through it equally often.
        widest = self.accelerator.gather(torch.tensor(width, device=self.accelerator.device)).max()
        return max(1, min(rows, self.max_tokens // int(widest)))

    def _loss_of(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        # TRL multiplies inputs["importance_sampling_ratio"] into the loss only if use_vllm is set.
        # It is set for the loss alone: during generation it would start TRL's own engine.
        self._loss_inputs = inputs
        if "limits" in inputs and self._limit_table is not None:
            self._limits = Limits(inputs["limits"], self._limit_table)
        self.use_vllm = self.importance_sampling.mode != "none"
        try:
            if not self.updates.nothing_to_learn:
                return super()._compute_loss(model, inputs)
            with torch.no_grad():  # for the metrics: no parameter gets a gradient
                return super()._compute_loss(model, inputs).requires_grad_()
        finally:
            self.use_vllm = False
            self._loss_inputs = self._limits = None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if kwargs.get("batch_size"):
            kwargs["batch_size"] = self._most_rows(input_ids.size(1))
        logprobs, entropies, *others = super()._get_per_token_logps_and_entropies(
            model, input_ids, *args, **kwargs
        )
        inputs = self._loss_inputs
        if inputs is not None:
            known = logprobs.detach().isfinite()
            logprobs = logprobs.where(known, 0.0)  # a constant: such a token moves nothing
            entropies = entropies.where(known, 0.0) if entropies is not None else None
            comparable = self._comparable(logprobs.detach(), known, inputs)
            if self.use_vllm:
                # With one optimizer step a batch, the policy before it is the policy now: no second
                # forward pass is needed for the ratio.
                before = inputs.get("old_per_token_logps", logprobs.detach())
                inputs["importance_sampling_ratio"] = self._ratio(before.float(), inputs, comparable)
            # Of several iterations the first: the policy is the one that sampled.
            iteration = self._step // self.args.steps_per_generation % self.num_iterations
            if self.record_tokens is not None and not iteration:
                self.record_tokens(
                    step_under_way(self.args, self.state),
                    self._played,
                    self._episode_of,
                    self._factors.tolist(),
                    inputs,
                    logprobs,
                    entropies,
                )
        return logprobs, entropies, *others

    def _comparable(
        self, logprobs: torch.Tensor, known: torch.Tensor, inputs: dict[str, Any]
    ) -> torch.Tensor:
        """Which tokens that carry loss have finite log-probs of every policy; the others are counted.

        They have no penalty for leaving the reference.
        """
        mask = inputs["completion_mask"].bool()
        if "tool_mask" in inputs:
            mask = mask & inputs["tool_mask"].bool()
        known = known & inputs["sampling_per_token_logps"].isfinite()
        before = inputs.get("old_per_token_logps")
        if before is not None:
            known = known & before.isfinite()
            inputs["old_per_token_logps"] = before.where(known, logprobs)
        reference = inputs.get("ref_per_token_logps")
        if reference is not None:
            known = known & reference.isfinite()
            inputs["ref_per_token_logps"] = reference.where(known, logprobs)
        self._nonfinite_logprobs += int((mask & ~known).sum())
        return mask & known

    def _ratio(
        self, logprobs: torch.Tensor, inputs: dict[str, Any], comparable: torch.Tensor
    ) -> torch.Tensor:
        """π_train / π_sample, truncated or masked at the cap; (B, T), or (B, 1) a sequence.

        1 for tokens that are not ``comparable``.
        """
        difference = (logprobs - inputs["sampling_per_token_logps"]).where(comparable, 0.0)
        level, _, action = self.importance_sampling.mode.partition("_")
        if level == "sequence":
            ratio = difference.sum(dim=-1, keepdim=True).exp()
            seen = ratio.flatten()
        else:
            ratio = difference.exp()
            seen = ratio[comparable]
        cap = self.importance_sampling.cap
        truncate = action == "truncate"
        corrected = ratio.clamp(max=cap) if truncate else ratio.masked_fill(ratio > cap, 0.0)
        self._log_ratio(seen, difference[comparable], cap)
        return corrected

    def _log_ratio(self, ratio: torch.Tensor, difference: torch.Tensor, cap: float) -> None:
        if not ratio.numel() or not difference.numel():
            return
        metrics = self._metrics["train"]
        metrics["sampling/importance_sampling_ratio/min"].append(ratio.min().item())
        metrics["sampling/importance_sampling_ratio/mean"].append(ratio.mean().item())
        metrics["sampling/importance_sampling_ratio/max"].append(ratio.max().item())
        metrics["sampling/importance_sampling_ratio/capped"].append((ratio > cap).float().mean().item())
        absolute = difference.abs()
        metrics["sampling/sampling_logp_difference/mean"].append(absolute.mean().item())
        metrics["sampling/sampling_logp_difference/max"].append(absolute.max().item())


def _rows_of(value: Any, rows: slice) -> Any:
    """``rows`` of a column of the batch; what is a number stays."""
    return value if isinstance(value, torch.Tensor) and value.ndim == 0 else value[rows]


def _rollout_func(prompts: list[Any], trainer: HostGRPOTrainer) -> dict[str, Any]:
    """TRL's ``rollout_func``: one episode a prompt, in order; TRL has repeated each prompt G times.

    Gives back at least one row an episode, equally many on each rank and in each micro-batch.
    """
    with trainer.phase("generation"):
        played = trainer._played = trainer.rollout(trainer._rows, trainer)
    if len(played) != len(prompts):
        raise ValueError(f"{len(played)} trajectories for {len(prompts)} prompts")
    end_id = trainer._tokenizer.eos_token_id
    differ = trainer._has_variance() if trainer.drop_equal_groups else [True] * len(played)
    numbered = []
    for index, item in enumerate(played):
        cut = trainer.args.mask_truncated_completions and was_truncated(item)
        trained = differ[index] and not cut
        rows = make_rows(item, end_id) if trained else [empty_row(end_id, end_id)]
        numbered += [(index, row) for row in rows]
    accelerator = trainer.accelerator
    most = int(accelerator.gather(torch.tensor(len(numbered), device=accelerator.device)).max())
    missing = most - len(numbered) + -most % trainer.args.steps_per_generation
    numbered += [(0, empty_row(end_id, end_id))] * missing
    trainer._episode_of = [index for index, _ in numbered]
    counted = int(accelerator.gather(torch.tensor(sum(differ), device=accelerator.device)).sum())
    factors = row_factors(
        trainer.loss_type,
        [sum(row.mask) for _, row in numbered],
        trainer._episode_of,
        len(numbered) * accelerator.num_processes / max(1, counted),
    )
    trainer._factors = factors * torch.tensor([row.weight for _, row in numbered])
    trainer._limits = find_limits([row for _, row in numbered], trainer._grammars)
    # What TRL computes next (the policy before the first of several updates) has the adapter's dropout.
    torch.manual_seed(
        derive_seed(trainer.args.seed, "scoring", trainer.state.global_step, accelerator.process_index)
    )
    return {
        "prompt_ids": [row.prompt_ids for _, row in numbered],
        "completion_ids": [row.completion_ids for _, row in numbered],
        "logprobs": [row.logprobs for _, row in numbered],
        "env_mask": [row.mask for _, row in numbered],
    }


def _named(name: str) -> Callable[..., list[float]]:
    """Stands for a reward of ours where TRL asks for its name."""

    def reward(**_: Any) -> list[float]:
        raise NotImplementedError(f"the host computes {name}")

    reward.__name__ = name
    return reward

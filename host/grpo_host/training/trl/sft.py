"""TRL's ``SFTTrainer`` on CPU, through the same fast pass as GRPO's."""

from __future__ import annotations

from typing import Any

from trl import SFTTrainer

from grpo_host.training.cpu.fast_pass import packable_model, score_tokens
from grpo_host.training.finite import TrueLosses
from grpo_host.training.ranks.gradient_sync import AveragedGradients
from grpo_host.training.ranks.sharding import ShardedAlike


class FastSFTTrainer(TrueLosses, AveragedGradients, ShardedAlike, SFTTrainer):  # type: ignore[misc]
    """Computes the loss by ``score_tokens`` if it can: the head runs for labelled tokens only."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        base = packable_model(self.accelerator.unwrap_model(model))
        if base is None or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.passed_by_wrapper = True
        ids, attention = inputs["input_ids"], inputs["attention_mask"]
        scored = inputs["labels"][:, 1:] != -100
        # The first token stands for the prompt: all that follow it are predicted.
        logprobs, _ = score_tokens(base, ids, attention, scored, ids.size(1) - 1, 1.0)
        count = scored.sum() if num_items_in_batch is None else num_items_in_batch
        # The count is that of all ranks, and gradients are averaged over them.
        ranks = 1 if num_items_in_batch is None else self.accelerator.num_processes
        return -logprobs.sum() * ranks / count

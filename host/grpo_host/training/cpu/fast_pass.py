"""The trainer's forward and backward pass on CPU, without the work that changes nothing.

TRL's own pass runs the language-model head over prompts and padding, and most of its backward in
float32; prompts are computed once a sample. Here

- a batch is packed: padding is left out, and a prompt that several rows share is computed once;
- the head runs only for tokens that carry loss, and keeps what its backward needs from its forward;
- rows without an advantage (their group's rewards are equal) have no backward pass;
- tokens that were sampled under a grammar are scored among the ids that it allowed.

Loss and gradients are TRL's, up to rounding. On GPUs, and for what is not known to be safe here
(architectures outside ``PACKABLE``, trained heads, images), TRL's own pass is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from grpo_host.training.cpu.packing import ATTENTION, pack, token_rows
from grpo_host.training.limits import Limits, within
from grpo_host.training.ranks.gradient_sync import AveragedGradients
from grpo_host.training.ranks.sharding import ShardedAlike, is_sharded
from grpo_host.training.trl_alone import trl_without_vllm

with trl_without_vllm():
    from trl import GRPOTrainer

PACKABLE = frozenset({"llama", "qwen2", "qwen3"})
"""Model types whose attention is nothing but causal: what a packed batch's is."""

HEAD_ROWS = 512
"""Tokens whose logits exist at a time: enough to use the head's weights well once they are loaded."""


class _TokenLogprobs(torch.autograd.Function):
    """Log-probs of ``targets`` and entropies under a frozen head.

    d logprob / d hidden = weight[target] - E[weight] needs nothing from upstream but a factor, so it
    is taken while the probabilities are at hand, and logits are never computed twice. So is, if
    ``entropy_moves``, d entropy / d hidden = - E[(log p + entropy) weight].
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        entropy_moves: bool = False,
        which: Tensor | None = None,
        table: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(len(hidden), dtype=torch.float32)
        entropies, slopes = torch.empty_like(logprobs), torch.empty_like(hidden)
        moves = entropy_moves and ctx.needs_input_grad[0]
        entropy_slopes = torch.empty_like(hidden) if moves else None
        for start in range(0, len(hidden), HEAD_ROWS):
            part = slice(start, start + HEAD_ROWS)
            logits = functional.linear(hidden[part], weight, bias).float()
            if temperature != 1.0:
                logits /= temperature
            if which is not None and table is not None:
                logits = within(logits, which[part], table)
            chosen = targets[part, None]
            probabilities = logits.softmax(dim=-1)
            # log sum exp, from the largest logit and its probability
            total = logits.amax(dim=-1) - probabilities.amax(dim=-1).log()
            logprobs[part] = logits.gather(1, chosen)[:, 0] - total
            if entropy_slopes is None:
                entropies[part] = total - logits.mul_(probabilities).sum(dim=-1)
            else:
                surprise = logits - total[:, None]
                entropies[part] = -(probabilities * surprise).sum(dim=-1)
                surprise.add_(entropies[part, None]).mul_(probabilities)
                entropy_slopes[part] = surprise.to(weight.dtype) @ weight
            if ctx.needs_input_grad[0]:
                # p - 1 is taken before rounding: a confident token's slope is all in the difference
                probabilities.scatter_add_(1, chosen, torch.full(chosen.shape, -1.0))
                slopes[part] = probabilities.to(weight.dtype) @ weight
        ctx.save_for_backward(slopes, entropy_slopes)
        ctx.temperature = temperature
        if entropy_slopes is None:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, of_entropy: Tensor) -> tuple[Tensor | None, ...]:
        slopes, entropy_slopes = ctx.saved_tensors
        moved = slopes * (-grad / ctx.temperature)[:, None]
        if entropy_slopes is not None:
            moved += entropy_slopes * (-of_entropy / ctx.temperature)[:, None]
        return moved.to(slopes.dtype), *[None] * 7


class FastGRPOTrainer(AveragedGradients, ShardedAlike, GRPOTrainer):
    """A ``GRPOTrainer`` whose pass through the model is the one of this module wherever it can be."""

    _buffered_inputs: list[dict[str, Any]] | None
    _scored: Tensor | None = None
    """Which completion tokens of the batch in hand carry loss."""
    _moving: Tensor | None = None
    """Which rows of the batch in hand have a gradient; None: all."""
    _limits: Limits | None = None
    """What the tokens of the batch in hand could have been; None: anything."""

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        batches = self._buffered_inputs
        if batches is before or batches is None:
            return inputs
        if self.args.steps_per_generation != self.args.gradient_accumulation_steps:
            return inputs  # these micro-batches are different optimizer steps: leave them mixed
        self._buffered_inputs = _prefixes_together(batches)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self._scored = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        # A penalty or a bonus has a gradient in every row, and ranks average gradients: each is to have one.
        if (
            not self.beta
            and not self.args.entropy_coef
            and torch.is_grad_enabled()
            and self.accelerator.num_processes == 1
        ):
            self._moving = inputs["advantages"].reshape(len(self._scored), -1).any(dim=1)
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._scored = self._moving = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        base = packable_model(self.accelerator.unwrap_model(model))
        limits = None if self._limits is None else self._limits.padded(logits_to_keep)
        size = batch_size or len(input_ids)
        if base is None or any(value is not None and value is not False for value in options.values()):
            if limits is not None:
                return self._plain_pass(model, input_ids, attention_mask, limits, size)
            return super()._get_per_token_logps_and_entropies(  # type: ignore[no-any-return]
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **options
            )
        self.passed_by_wrapper = True
        scored = attention_mask[:, -logits_to_keep:] if self._scored is None else self._scored
        moving = scored.new_ones(len(scored)) if self._moving is None else self._moving
        scored, moving, parts = scored.bool(), moving.bool(), []
        with self.accelerator.autocast():
            for start in range(0, len(input_ids), size):
                rows = slice(start, start + size)
                part = (input_ids[rows], attention_mask[rows], scored[rows], moving[rows])
                own = None if limits is None else limits.of(rows)
                moves = bool(self.args.entropy_coef)
                parts.append(_score_rows(base, part, logits_to_keep, self.temperature, own, moves))
        logprobs, entropies = (torch.cat(part) for part in zip(*parts, strict=True))
        return logprobs, entropies if compute_entropy else None, None

    def _plain_pass(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, limits: Limits, size: int
    ) -> tuple[Tensor, Tensor, None]:
        """As TRL's own, whose fused head cannot leave ids out."""
        width, parts = limits.which.size(1), []
        for start in range(0, len(input_ids), size):
            rows = slice(start, start + size)
            with self.accelerator.autocast():
                logits = model(
                    input_ids=input_ids[rows],
                    attention_mask=attention_mask[rows],
                    use_cache=False,
                    logits_to_keep=width + 1,
                ).logits[:, :-1]
            flat = logits.flatten(0, 1).float() / self.temperature
            logprobs = within(flat, limits.which[rows].flatten(), limits.table).log_softmax(dim=-1)
            said = logprobs if self.args.entropy_coef else logprobs.detach()
            entropies = -(said.exp() * said).sum(dim=-1)
            chosen = logprobs.gather(1, input_ids[rows, -width:].reshape(-1, 1))
            parts.append((chosen.view(-1, width), entropies.view(-1, width)))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]), None


def packable_model(model: Any) -> Any:
    """The language model inside ``model`` if this module can run it, else None."""
    configs = getattr(model, "peft_config", {}).values()
    if any(config.is_prompt_learning for config in configs):
        return None
    base = model.get_base_model() if configs else model
    if base.is_gradient_checkpointing:  # recomputes layers when this module's attention is gone
        return None
    if is_sharded(base):  # its layers come together in its own forward alone
        return None
    head = base.get_output_embeddings()
    usable = type(head) is torch.nn.Linear and not head.weight.requires_grad
    usable = usable and head.weight.device.type == "cpu" and base.config.model_type in PACKABLE
    return base if usable and not getattr(base.config, "use_sliding_window", False) else None


def score_tokens(
    model: Any,
    ids: Tensor,
    attention: Tensor,
    scored: Tensor,
    width: int,
    temperature: float,
    limits: Limits | None = None,
    entropy_moves: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies (rows, width) of the completion tokens in ``scored``; 0 elsewhere.

    Entropies have a gradient only with ``entropy_moves``.
    """
    packing = pack(ids, attention, width)
    with _attention(model.config, ATTENTION):
        states = model.base_model(
            input_ids=packing.ids[None],
            position_ids=packing.positions[None],
            use_cache=False,
            packing=packing,
        ).last_hidden_state[0]
    held = attention[:, -width:].bool()
    scored = scored & held
    head = model.get_output_embeddings()
    chosen = states.index_select(0, packing.predictors[scored[held]]).to(head.weight.dtype)
    targets = ids[:, -width:][scored]
    limited = () if limits is None else (limits.which[scored], limits.table)
    values = _TokenLogprobs.apply(
        chosen, head.weight, head.bias, targets, temperature, entropy_moves, *limited
    )
    empty = torch.zeros(scored.shape)
    return empty.masked_scatter(scored, values[0]), empty.masked_scatter(scored, values[1])


def _score_rows(
    model: Any,
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
    width: int,
    temperature: float,
    limits: Limits | None,
    entropy_moves: bool,
) -> tuple[Tensor, Tensor]:
    """As ``score_tokens``, and a gradient for the rows in ``moving``, the last of ``batch``, alone."""
    ids, attention, scored, moving = batch
    if bool(moving.all()):
        return score_tokens(model, ids, attention, scored, width, temperature, limits, entropy_moves)
    logprobs, entropies = torch.zeros(scored.shape), torch.zeros(scored.shape)
    for rows in (moving.nonzero()[:, 0], (~moving).nonzero()[:, 0]):
        if not len(rows):
            continue
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(moving[rows[0]])):
            own = None if limits is None else limits.of(rows)
            part = score_tokens(model, ids[rows], attention[rows], scored[rows], width, temperature, own)
        logprobs = logprobs.index_copy(0, rows, part[0])
        entropies = entropies.index_copy(0, rows, part[1])
    if torch.is_grad_enabled() and not logprobs.requires_grad:
        logprobs.requires_grad_()  # a loss without any gradient is one that autograd refuses
    return logprobs, entropies


@contextmanager
def _attention(config: Any, name: str) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def _prefixes_together(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows in as many batches, those that begin with the same tokens side by side."""
    if any(isinstance(value, list) for value in batches[0].values()):
        return batches
    rows: list[list[int]] = []
    for batch in batches:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        rows += token_rows(ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1).bool())
    order = torch.tensor(sorted(range(len(rows)), key=rows.__getitem__))
    regrouped = [dict(batch) for batch in batches]
    for name, value in batches[0].items():
        if isinstance(value, Tensor) and value.ndim:
            column = torch.cat([batch[name] for batch in batches])[order]
            for batch, part in zip(regrouped, column.split(len(value)), strict=True):
                batch[name] = part
    return regrouped

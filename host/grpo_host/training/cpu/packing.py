"""A padded batch as one sequence: no padding, and every prompt that rows share only once.

Attention is computed on padded rows all the same, where a completion's rows see their prompt's keys;
everything else, which is nearly all of the work, on the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AttentionInterface

if TYPE_CHECKING:
    from torch import nn

ATTENTION = "grpo_packed"
"""The name under which transformers finds the attention of a packed batch."""


@dataclass(frozen=True, slots=True)
class Packing:
    """A padded batch as one sequence: every different prompt once, then every completion.

    In ``*_slots`` (rows x width) is where a padded position's token is in its part of the sequence,
    and in ``*_places`` where in the flattened slots each token is. Both pad on the right.
    """

    ids: Tensor
    positions: Tensor
    prompt_slots: Tensor
    prompt_places: Tensor
    completion_slots: Tensor
    completion_places: Tensor
    owner: Tensor
    """Which prompt a completion continues, as a one-hot matrix (completions x prompts)."""
    hidden: Tensor
    """Which keys a completion's position must not see (completions, 1, width, prompt + width)."""
    causal: Tensor
    """The same for prompts (1, 1, width, width)."""
    predictors: Tensor
    """For each completion token, in order, the token of the sequence that predicts it."""

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_places)


def pack(ids: Tensor, attention: Tensor, completion_width: int) -> Packing:
    """Pack rows of left-padded prompts and right-padded completions, as TRL lays them out."""
    width = ids.size(1) - completion_width
    held = attention.bool()
    keyed = torch.cat([ids, attention], dim=1)[:, torch.arange(2 * ids.size(1)) % ids.size(1) < width]
    _, owner = torch.unique(keyed, dim=0, return_inverse=True)
    first = torch.stack([(owner == item).nonzero()[0, 0] for item in range(int(owner.max()) + 1)])
    prompt_lengths = held[first, :width].sum(dim=1)
    lengths = held[:, width:].sum(dim=1)
    prompt_slots, prompt_places, prompt_positions = _slots(prompt_lengths)
    slots, places, positions = _slots(lengths)
    start = prompt_lengths[owner]
    prompt_ends = prompt_lengths.cumsum(0) - 1
    row = torch.repeat_interleave(torch.arange(len(ids)), lengths)
    tokens = torch.arange(len(places)) + len(prompt_places)
    predictors = torch.where(positions == 0, prompt_ends[owner[row]], tokens - 1)
    own = torch.ones(slots.size(1), slots.size(1), dtype=torch.bool).triu(1)
    beyond = torch.arange(prompt_slots.size(1)) >= start[:, None]
    hidden = torch.cat(
        [
            beyond[:, None, :].expand(-1, slots.size(1), -1),
            own.expand(len(ids), -1, -1),
        ],
        dim=2,
    )
    return Packing(
        ids=torch.cat([ids[first, :width][held[first, :width]], ids[:, width:][held[:, width:]]]),
        positions=torch.cat([prompt_positions, start[row] + positions]),
        prompt_slots=prompt_slots,
        prompt_places=prompt_places,
        completion_slots=slots,
        completion_places=places,
        owner=functional.one_hot(owner, len(first)),
        hidden=hidden[:, None],
        causal=torch.ones(2 * (prompt_slots.size(1),), dtype=torch.bool).triu(1)[None, None],
        predictors=predictors,
    )


def _slots(lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slots, places and positions of rows of ``lengths``, padded on the right."""
    column = torch.arange(int(lengths.max()))
    held = column < lengths[:, None]
    slots = (lengths.cumsum(0) - lengths)[:, None] + column
    return slots * held, held.flatten().nonzero().flatten(), column.expand_as(held)[held]


class _Pad(torch.autograd.Function):  # type: ignore[misc]
    """Tokens to padded rows. Every token has one slot, so that the backward is a lookup too."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, slots: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return tokens.index_select(0, slots.flatten()).unflatten(0, slots.shape)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return grad.flatten(0, 1).index_select(0, places), None, None


class _Unpad(torch.autograd.Function):  # type: ignore[misc]
    """The inverse of ``_Pad``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = rows.shape
        return rows.flatten(0, 1).index_select(0, places)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        rows = grad.new_zeros(ctx.shape)
        rows.view(-1, *ctx.shape[2:]).index_copy_(0, places, grad)
        return rows, None


def _attend(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scaling: float) -> Tensor:
    """Attention of (rows, width, heads, size) tensors, in the steps of transformers' eager kind.

    The heads that share a key are laid side by side instead of copying the key for each.
    """
    rows, width, heads, size = query.shape
    shared = heads // key.size(2)
    query = query.unflatten(2, (-1, shared)).permute(0, 2, 3, 1, 4).reshape(rows, -1, shared * width, size)
    mixed = _Mix.apply(query, key.transpose(1, 2), value.transpose(1, 2), hidden[:, None], scaling)
    return mixed.unflatten(2, (shared, width)).permute(0, 3, 1, 2, 4).flatten(2, 3)


class _Mix(torch.autograd.Function):  # type: ignore[misc]
    """softmax(query key^T scaling) value, where of the scores only the weights are kept.

    Autograd would keep three more tensors of their size in each layer, one of them in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor, scaling: float
    ) -> Tensor:
        scores = query @ key.transpose(-1, -2)
        width = hidden.size(-2)
        scores.mul_(scaling).unflatten(2, (-1, width)).masked_fill_(hidden, float("-inf"))
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
        ctx.save_for_backward(query, key, value, weights)
        ctx.scaling = scaling
        return weights @ value

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights = ctx.saved_tensors
        slope = torch._softmax_backward_data(grad @ value.transpose(-1, -2), weights, -1, weights.dtype)
        slope.mul_(ctx.scaling)
        return (
            slope @ key,
            slope.transpose(-1, -2) @ query,
            weights.transpose(-1, -2) @ grad,
            None,
            None,
        )


def _packed_attention(
    module: nn.Module,  # noqa: ARG001 - the interface's arguments
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: None,  # noqa: ARG001
    *,
    packing: Packing,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers for a packed batch."""
    prompts, scaling = packing.prompt_tokens, options["scaling"]
    parts = [part[0].transpose(0, 1) for part in (query, key, value)]
    slots, places = packing.prompt_slots, packing.prompt_places
    q, k, v = (_Pad.apply(part[:prompts], slots, places) for part in parts)
    first = _Unpad.apply(_attend(q, k, v, packing.causal, scaling), places)
    slots, places = packing.completion_slots, packing.completion_places
    own_q, own_k, own_v = (_Pad.apply(part[prompts:], slots, places) for part in parts)
    owner = packing.owner.to(k.dtype)
    # A product with the one-hot owners copies prompts to their rows; its backward sums over rows.
    k, v = ((owner @ part.flatten(1)).unflatten(1, part.shape[1:]) for part in (k, v))
    k, v = torch.cat([k, own_k], dim=1), torch.cat([v, own_v], dim=1)
    second = _Unpad.apply(_attend(own_q, k, v, packing.hidden, scaling), places)
    return torch.cat([first, second])[None], None


AttentionInterface.register(ATTENTION, _packed_attention)

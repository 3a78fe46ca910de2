"""A padded batch as one sequence: no padding, and every token that rows begin with alike only once.

The rows form a prefix tree. The model is causal, so tokens that follow the same tokens have the same states,
and the gradient of a shared token is the sum over the rows that share it. Rows of one task share their
prompt, and often the tool call and its result; demonstrations share the system message and the tools.
Attention is computed on padded pieces of rows, each of which sees all tokens before it; everything else,
which is nearly all of the work, on the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

if TYPE_CHECKING:
    from torch import nn

ATTENTION = "grpo_packed"
"""The name under which transformers finds the attention of a packed batch."""
PIECE = 32
"""Most tokens of a piece: longer ones waste more on padding, shorter ones on gathering what they see."""


@dataclass(frozen=True, slots=True)
class Packing:
    """The tokens of a batch, each node of the prefix tree once, in pieces of consecutive tokens.

    ``slots`` (pieces x width) is where a padded position's token is in the sequence, and ``places`` where in
    the flattened slots each token is. Both pad on the right.
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    places: Tensor
    paths: Tensor
    """The tokens from a row's first to a piece's last (pieces x longest); padded on the right."""
    hidden: Tensor
    """Which tokens of its path a piece's token must not see (pieces, 1, width, longest)."""
    predictors: Tensor
    """For each completion token, row by row, the token of the sequence that predicts it."""


def pack(ids: Tensor, attention: Tensor, completion_width: int) -> Packing:
    """Pack rows of left-padded prompts and right-padded completions, as TRL lays them out."""
    held = attention.bool()
    rows = token_rows(ids, held)
    prompts = held[:, :-completion_width].sum(dim=1).tolist()
    paths: list[list[int]] = [[] for _ in rows]
    pieces: list[tuple[int, list[int]]] = []  # where it begins in its row, and its path
    tokens: list[int] = []
    before: list[int] = []
    path: list[int] = []
    for index in sorted(range(len(rows)), key=rows.__getitem__):  # so that a row shares most with the last
        row = rows[index]
        shared = next((at for at, (a, b) in enumerate(zip(before, row, strict=False)) if a != b), None)
        shared = min(len(before), len(row)) if shared is None else shared
        own = len(row) - shared
        path = [*path[:shared], *range(len(tokens), len(tokens) + own)]
        pieces += [(begin, path[: begin + PIECE]) for begin in range(shared, len(row), PIECE)]
        tokens += row[shared:]
        before, paths[index] = row, path
    begins = torch.tensor([begin for begin, _ in pieces])
    lengths = torch.tensor([len(seen) - begin for begin, seen in pieces])
    slots, places, offsets = _slots(lengths)
    longest = max(len(seen) for _, seen in pieces)
    depth = begins[:, None] + torch.arange(slots.size(1))
    return Packing(
        ids=torch.tensor(tokens),
        positions=begins.repeat_interleave(lengths) + offsets,
        slots=slots,
        places=places,
        paths=torch.tensor([[*seen, *[0] * (longest - len(seen))] for _, seen in pieces]),
        hidden=(torch.arange(longest) > depth[:, :, None])[:, None],
        predictors=torch.tensor(
            [
                token
                for path, prompt in zip(paths, prompts, strict=True)
                for token in path[prompt - 1 : len(path) - 1]
            ],
            dtype=torch.long,
        ),
    )


def token_rows(ids: Tensor, held: Tensor) -> list[list[int]]:
    """The ids of each row without its padding."""
    return [row[kept].tolist() for row, kept in zip(ids, held, strict=True)]


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


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    """What pieces see: the tokens of their paths. The backward sums over the pieces, in float32."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, paths: Tensor) -> Tensor:
        ctx.save_for_backward(paths)
        ctx.count = len(tokens)
        return tokens.index_select(0, paths.flatten()).unflatten(0, paths.shape)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (paths,) = ctx.saved_tensors
        total = torch.ops.aten.embedding_dense_backward(grad.flatten(2).float(), paths, ctx.count, -1, False)
        return total.to(grad.dtype).unflatten(1, grad.shape[2:]), None


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
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    query = _Pad.apply(query, packing.slots, packing.places)
    key, value = (_Gather.apply(part, packing.paths) for part in (key, value))
    mixed = _attend(query, key, value, packing.hidden, options["scaling"])
    return _Unpad.apply(mixed, packing.places)[None], None


AttentionInterface.register(ATTENTION, _packed_attention)

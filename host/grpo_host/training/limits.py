"""What the grammars of a batch left to choose from, for the trainer's pass to leave the same ids out.

A token's log-prob under the policy that sampled it is that of the ids which its grammar allowed. The trainer
must compare like with like: it replays each grammar over the recorded ids, and masks the same logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from grpo_sdk.grammar import Grammars, unpacked

if TYPE_CHECKING:
    from grpo_host.training.trl.rows import Row

_LEFT_OUT = -1e30
"""The logit of what is not allowed: its probability is 0, and 0 times it is 0, not NaN."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Which ids each completion token of a batch could have been."""

    which: Tensor
    """(rows, width): the row of ``table`` for each token; 0 for one that could have been any."""
    table: Tensor
    """Bits, as ``grpo_sdk.grammar.unpacked`` reads them."""

    def of(self, rows: Tensor | slice) -> Limits:
        """Those of some rows of the batch."""
        return Limits(self.which[rows], self.table)

    def padded(self, width: int) -> Limits:
        """The same with ``width`` tokens a row."""
        return Limits(pad(self.which, (0, width - self.which.size(1))), self.table)


def find_limits(rows: Sequence[Row], grammars: Grammars) -> Limits | None:
    """The limits of ``rows``, padded on the right; None if none of their tokens was constrained.

    Raises ``RunError`` if a grammar does not allow what is recorded as sampled under it.
    """
    if not any(row.constraints for row in rows):
        return None
    places: dict[bytes, int] = {}
    table = [grammars.bits(1)[0]]
    which = torch.zeros(len(rows), max(len(row.completion_ids) for row in rows), dtype=torch.long)
    for index, row in enumerate(rows):
        for constraint in row.constraints:
            ids = row.completion_ids[constraint.start : constraint.end]
            for at, bits in enumerate(grammars.allowed(ids, constraint.grammar, constraint.stop_ids)):
                place = places.setdefault(bits.numpy().tobytes(), len(table))
                if place == len(table):
                    table.append(bits.clone())
                which[index, constraint.start + at] = place
    return Limits(which, torch.stack(table))


def within(logits: Tensor, which: Tensor, table: Tensor) -> Tensor:
    """``logits`` (tokens, vocabulary) with what is left out of each token; ``which`` as in ``Limits``."""
    limited = which.nonzero()[:, 0]
    if not len(limited):
        return logits
    allowed = unpacked(table[which[limited].to(table.device)], logits.size(-1)).to(logits.device)
    masked = logits[limited].masked_fill(~allowed, _LEFT_OUT)
    return logits.index_copy(0, limited.to(logits.device), masked)

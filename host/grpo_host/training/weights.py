"""The weights that a backend is to sample from: the model's, with an adapter merged in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from grpo_sdk.weights import VisibleUpdate, merged_weights, rounded, rounded_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def served_weights(
    model: PreTrainedModel, dtype: str, visible: VisibleUpdate | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """``(name, tensor)`` of every weight under the base model's names, in ``dtype``.

    ``visible`` counts what of an adapter is in them.
    """
    import torch

    wanted = getattr(torch, dtype)
    if hasattr(model, "peft_config"):
        return ((name, rounded(weight, wanted, name)) for name, weight in merged_weights(model, visible))
    return rounded_weights(model.state_dict().items(), wanted)

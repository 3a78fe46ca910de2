"""The weights that a backend is to sample from: the model's, with an adapter merged in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


def served_weights(model: PreTrainedModel, dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
    """``(name, tensor)`` of every weight under the base model's names, in ``dtype``."""
    import torch

    wanted = getattr(torch, dtype)
    weights = merged_weights(model) if hasattr(model, "peft_config") else model.state_dict().items()
    for name, tensor in weights:
        yield name, tensor.detach().to(wanted) if tensor.is_floating_point() else tensor


def merged_weights(model: PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    """``(name, tensor)`` of every base weight, under the base model's names, adapter merged.

    The merge is made into new tensors. ``merge_adapter`` and ``unmerge_adapter`` in place would
    round the bfloat16 base weights twice a step and let them drift.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    adapted = {name: module for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)}
    with torch.no_grad():
        for name, tensor in base.state_dict().items():
            owner, _, leaf = name.rpartition(".base_layer.")
            if not owner:
                if not any(name.startswith(f"{prefix}.") for prefix in adapted):
                    yield name, tensor
                continue
            module = adapted[owner]
            if leaf == "weight":
                delta = sum(module.get_delta_weight(active) for active in module.active_adapters)
                tensor = (tensor.float() + delta.float()).to(tensor.dtype)
            yield f"{owner}.{leaf}", tensor

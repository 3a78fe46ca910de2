"""Merge a PEFT adapter into its base model's weights, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_sdk import weights
from grpo_sdk.errors import MissingExtraError, ModelError
from grpo_sdk.weights import load_model

if TYPE_CHECKING:
    import torch


def merged_weights(model: Path, adapter: Path, dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of ``model`` with ``adapter`` merged in, by the base model's names.

    Raises ``ModelError`` if the adapter does not fit the model.
    """
    try:
        import torch
        from peft import PeftModel
    except ImportError as problem:
        package = problem.name or "peft"
        raise MissingExtraError("loading an adapter", package, "train") from problem
    base = load_model(model, getattr(torch, dtype))
    try:
        adapted = PeftModel.from_pretrained(base, adapter)
    except (ValueError, RuntimeError, KeyError, OSError) as problem:
        first_line = str(problem).strip().partition("\n")[0]
        raise ModelError(
            f"{adapter}: the adapter does not fit the model in {model}: {first_line}. "
            "Use the model that it was trained on"
        ) from problem
    try:
        yield from weights.merged_weights(adapted)
    except ModelError as problem:
        raise ModelError(f"{adapter}: {problem}") from problem

"""What of a transformers trainer's arguments depends on the machine: precision, and what fits a pass."""

from __future__ import annotations

import os
from typing import Any


def precision_arguments(*, autocast: bool) -> dict[str, Any]:
    """Arguments of ``TrainingArguments`` for this machine.

    Beside an adapter the model is loaded in its training precision: ``autocast`` to bfloat16 would
    only add casts. It is for a model that is trained whole, in float32. ``use_cpu`` must be said, or
    bf16's default fails if there is no GPU.
    """
    import torch

    return {"bf16": autocast, "fp16": False, "use_cpu": not torch.cuda.is_available()}


def compute_deterministically() -> None:
    """Let torch use no kernel whose result differs from call to call; it raises where it has no other."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def largest_share(rows: int, most: int) -> int:
    """The largest number of at most ``most`` that divides ``rows``."""
    return max(n for n in range(1, min(rows, most) + 1) if rows % n == 0)

"""What of a transformers trainer's arguments depends on the machine."""

from __future__ import annotations

from typing import Any


def precision_arguments() -> dict[str, Any]:
    """Arguments of ``TrainingArguments`` for this machine.

    The model is loaded in its training precision, so autocast stays off: with a bfloat16 model it
    would only add casts. ``use_cpu`` must be said, or bf16's default fails where there is no GPU.
    """
    import torch

    return {"bf16": False, "fp16": False, "use_cpu": not torch.cuda.is_available()}

"""A model with an adapter, as training leaves it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def adapted(model: Path) -> Any:
    """``model`` with a LoRA adapter that differs much from it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these imports themselves import what is deprecated
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    policy = get_peft_model(base, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    return policy

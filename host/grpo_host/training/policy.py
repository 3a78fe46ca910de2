"""The policy that is trained: a base model with a PEFT adapter, and how it gets to the backend."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_host.config.schema import LoraConfig as LoraSettings
from grpo_host.training.weights import merged_weights
from grpo_sdk.backend import Backend
from grpo_sdk.errors import ModelError, RunError

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass
class Policy:
    """A model in training."""

    model: PeftModel
    tokenizer: Any
    version: int = 0
    """Counts the weights that the backend has been given."""

    async def sync(self, backend: Backend) -> None:
        """Make ``backend`` sample from the weights as they are now."""
        self.version += 1
        await backend.update_weights(merged_weights(self.model), version=self.version)

    def save_adapter(self, path: Path) -> None:
        """Write the adapter at ``path``, whole or not at all. Raises ``RunError``."""
        partial = path.with_name(f".{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            self.model.save_pretrained(str(partial), safe_serialization=True)
            shutil.rmtree(path, ignore_errors=True)
            partial.replace(path)
        except Exception as problem:  # a full disk has as many types as there are writers
            shutil.rmtree(partial, ignore_errors=True)
            raise RunError(
                f"cannot write the adapter to {path}: {problem}; what was "
                "written before is kept. Make room and run again with --resume"
            ) from problem


def load_policy(path: Path, *, dtype: str, lora: LoraSettings, adapter: Path | None, seed: int) -> Policy:
    """The model at ``path`` with the adapter at ``adapter``, or a new one that changes nothing yet."""
    import torch
    from peft import LoraConfig, PeftModel, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from transformers.utils.logging import disable_progress_bar

    from grpo_host.training.fast_model import speed_up

    set_seed(seed)
    disable_progress_bar()  # the host shows that it is loading
    try:
        base = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation=_attention()
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as problem:
        raise ModelError(f"cannot load the model at {path}: {problem}") from problem
    if torch.cuda.is_available():
        base = base.to("cuda")
    if adapter is not None:
        model = PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
    else:
        model = get_peft_model(
            base,
            LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=lora.target_modules,
                task_type=TaskType.CAUSAL_LM,
            ),
        )
    speed_up(model)
    return Policy(model, tokenizer)


def _attention() -> str:
    """Eager on CPU, where the fused kernel's backward is slower at the lengths trained there."""
    import torch

    return "sdpa" if torch.cuda.is_available() else "eager"

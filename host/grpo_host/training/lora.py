"""The adapter that agent.yaml's ``training.lora`` asks for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from grpo_sdk.errors import ConfigError
from grpo_sdk.weights import check_mergeable

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from grpo_host.config.schema import LoraConfig as LoraSettings

WHERE = "training.lora.target_modules"


def add_adapter(model: PreTrainedModel, lora: LoraSettings, *, mixed_precision: bool = True) -> PeftModel:
    """``model`` with a new adapter that changes nothing yet.

    ``model`` needs no weights, so that a check can ask too. Raises ``ConfigError`` if it has no such
    modules, or they cannot be trained, and ``ModelError`` where they cannot be served.
    """
    from peft import LoraConfig, TaskType, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    there = _linear_layers(model)
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type=TaskType.CAUSAL_LM,
    )
    try:
        with warnings.catch_warnings():
            # Of tied weights, which are an error below.
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
            adapted = get_peft_model(model, settings, autocast_adapter_dtype=mixed_precision)
    except ValueError as problem:
        first_line = str(problem).strip().partition("\n")[0].rstrip(". ")
        raise ConfigError(
            f"{WHERE}: {first_line}. The model has: {there}; or all-linear for all"
        ) from problem
    if isinstance(adapted.get_output_embeddings(), BaseTunerLayer):
        raise ConfigError(
            f"{WHERE}: the output layer (lm_head) cannot be adapted, since TRL multiplies by its weight "
            f"directly and would never train the adapter. Leave it out; the model has: {there}"
        )
    check_mergeable(adapted)
    return adapted


@contextmanager
def precision_kept(model: Any) -> Iterator[None]:
    """Undo what TRL's trainers do as they are made: round adapters on quantized weights to bfloat16."""
    trained = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
    yield
    for parameter, data in trained:
        if parameter.dtype != data.dtype:
            parameter.data = data


def _linear_layers(model: PreTrainedModel) -> str:
    from torch.nn import Linear

    head = model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, Linear) and module is not head
    }
    return ", ".join(sorted(names)) or "no linear layers"

"""Check, from the model without its weights, that it can be trained as the configuration asks."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from grpo_host.models.resolve import directory_here
from grpo_host.utils.validation import Complaint
from grpo_sdk.errors import GrpoError

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig

ALL = "all-linear"
"""PEFT finds these itself in any model: nothing to check, and no heavy import."""


def check_lora(config: AgentConfig) -> Iterator[Complaint]:
    """Check that the modules to adapt exist and can be trained."""
    lora, directory = config.training.lora, directory_here(config.model.name)
    if lora is None or lora.target_modules == ALL or config.model.adapter or directory is None:
        return
    if not all(find_spec(module) for module in ("torch", "transformers", "peft")):
        return  # which is a complaint of its own
    from grpo_host.training.lora import WHERE, add_adapter
    from grpo_sdk.adapters import empty_model

    try:
        model = empty_model(directory)
    except Exception as problem:  # whatever a model's own configuration class raises
        first_line = str(problem).strip().partition("\n")[0]
        yield Complaint(("model", "name"), f"{directory}/config.json makes no language model: {first_line}")
        return
    try:
        add_adapter(model, lora)
    except GrpoError as problem:
        yield Complaint(tuple(WHERE.split(".")), str(problem).removeprefix(f"{WHERE}: "))

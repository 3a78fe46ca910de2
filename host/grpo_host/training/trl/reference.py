"""The policy that the KL penalty holds the trained one near to.

TRL adds a second adapter to the model, a copy of the first as it is when the trainer is made, and
takes its log-probs; if there is none, those of the model without an adapter. If the whole model is
trained, it has a second model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_host.training.policy import Policy, read_weights
from grpo_host.training.ranks.sharding import taking_whole_weights

REFERENCE = "ref"
"""TRL's name of the second adapter."""


def has_reference(model: Any) -> bool:
    """Whether the penalty is against a second adapter."""
    return REFERENCE in getattr(model, "peft_config", {})


def penalise_from_base(model: Any) -> None:
    """The penalty is for leaving the model below the adapter."""
    if has_reference(model):
        model.delete_adapter(REFERENCE)


def penalise_from_start(model: Any, start: Path | None) -> None:
    """The penalty is for leaving the adapter at ``start``; None: a new one, which changed nothing."""
    from peft import set_peft_model_state_dict

    if start is None:
        penalise_from_base(model)
    elif has_reference(model):
        set_peft_model_state_dict(model, read_weights(start), adapter_name=REFERENCE)


def penalise_from_policy(trainer: Any, policy: Policy) -> None:
    """The penalty is for leaving ``policy``: TRL's second model, made from a directory, gets its weights."""
    second = trainer.accelerator.unwrap_model(trainer.ref_model)
    with taking_whole_weights(second):
        second.load_state_dict(policy.model.state_dict())


def take_reference(model: Any) -> dict[str, Any]:
    """Take off what the first trainer has added: the next adds its own. What its weights were."""
    if not has_reference(model):
        return {}
    weights = {
        name: weight.detach().clone() for name, weight in model.named_parameters() if f".{REFERENCE}." in name
    }
    model.delete_adapter(REFERENCE)
    return weights


def give_reference(model: Any, weights: Mapping[str, Any]) -> None:
    """The penalty is for leaving the policy of the first step, not that of the last."""
    for name, weight in weights.items():
        model.get_parameter(name).data.copy_(weight)

"""The model that the examples speak with: of a training run for the shop's questions, if there is one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from grpo_agent_framework.examples import console
from grpo_host.config.load import load_config
from grpo_host.runs.directory import RunDirectory
from grpo_host.runs.trained_model import trained_model
from grpo_sdk.errors import RunError

AGENT = "order-desk"
"""The agent that ``make run`` trains."""
_UNTRAINED = (
    "The model is not trained for this shop: what follows shows how things work, not what a good agent "
    "says. `make run` trains one in minutes, and the examples then use it."
)


def model_config(options: argparse.Namespace, **otherwise: Any) -> dict[str, Any]:
    """``model_config`` of an agent that speaks as it was trained and measured.

    That is the run of ``--run``, or the latest of ``make run``; a line says which. If there is none,
    or ``--model`` names a model, it is ``otherwise`` on that model. Raises ``RunError`` if the run of
    ``--run`` is not there or has no adapter.
    """
    run = _run(options)
    if run is None:
        if options.model == console.MODEL:
            console.note(_UNTRAINED)
        return {"model_type": options.model, "max_tokens": options.max_tokens, **otherwise}
    console.note(f"The model was trained for this shop: {run.path}")
    config, trained = load_config(run.agent_yaml).config, trained_model(run)
    return {
        **otherwise,
        "model": trained.name,
        "adapter": trained.adapter,
        "dtype": config.model.dtype,
        "system_prompt": config.agent.system_prompt,
        "max_tokens": config.sampling.max_tokens,
    }


def is_trained(settings: dict[str, Any]) -> bool:
    """Whether ``settings``, of ``model_config``, are those of a run."""
    return "adapter" in settings


def _run(options: argparse.Namespace) -> RunDirectory | None:
    if options.run is not None:
        return RunDirectory.find(Path("runs"), AGENT, options.run, trained=True)
    if options.model != console.MODEL:
        return None
    try:
        run = RunDirectory.find(Path("runs"), AGENT, trained=True)
    except RunError:
        return None
    return run if run.is_trained() else None

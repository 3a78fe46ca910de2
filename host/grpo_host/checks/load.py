"""Loads an agent.yaml that is to be used: what is wrong with it is an error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_host.config.load import LoadedConfig
    from grpo_host.config.overrides import Override
    from grpo_host.plugins import Registry


def load_checked(
    path: Path, changes: Sequence[str | Override], registry: Registry, purpose: Any
) -> LoadedConfig:
    """agent.yaml with ``changes``, checked for ``purpose``. Raises ``ConfigError``."""
    from grpo_host.checks.check import check
    from grpo_host.config.load import load_config

    loaded = load_config(path, changes, registry)
    check(loaded, registry, purpose=purpose).raise_for_problems()
    return loaded

"""Which plugins a configuration names, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from grpo_host.plugins.options import OptionsError, read_options
from grpo_host.plugins.use import BackendUse
from grpo_sdk.errors import GrpoError

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig
    from grpo_host.plugins import Kind, Registry
    from grpo_host.plugins.use import PluginUse
    from grpo_host.utils.validation import Location


def plugin_uses(config: AgentConfig) -> Iterator[tuple[Location, Kind, PluginUse]]:
    """Every place of ``config`` that names a plugin's offer, in the order of the file's keys."""
    yield ("backend",), "backend", config.backend
    if config.agent.strategy is not None:
        yield ("agent", "strategy"), "strategy", config.agent.strategy
    for index, tool in enumerate(config.agent.tools):
        yield ("agent", "tools", index), "tool", tool
    for location, use in config.played:
        yield location, "environment", use
    for index, reward in enumerate(config.rewards):
        yield ("rewards", index), "reward", reward
    if config.training.curriculum is not None:
        yield ("training", "curriculum"), "curriculum", config.training.curriculum


def backend_options(config: AgentConfig, registry: Registry) -> Iterator[tuple[Location, BackendUse]]:
    """The rewards' and environments' own backends, by the location of the option that names each.

    Leaves out what a check of their own options complains of.
    """
    for location, kind, use in plugin_uses(config):
        if kind not in ("reward", "environment"):
            continue
        try:
            options = read_options(registry.get(kind, use.name), use.options)
        except (OptionsError, GrpoError):
            continue
        for name, value in options.items():
            if isinstance(value, BackendUse):
                yield (*location, "options", name), value

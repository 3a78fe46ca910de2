"""Which plugins a configuration names, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig, PluginUse
    from grpo_host.plugins import Kind
    from grpo_host.validation import Location


def plugin_uses(config: AgentConfig) -> Iterator[tuple[Location, Kind, PluginUse]]:
    """Every place of ``config`` that names a plugin's offer, in the order of the file's keys."""
    yield ("backend",), "backend", config.backend
    if config.agent.strategy is not None:
        yield ("agent", "strategy"), "strategy", config.agent.strategy
    for index, tool in enumerate(config.agent.tools):
        yield ("agent", "tools", index), "tool", tool
    yield ("environment",), "environment", config.environment
    for index, reward in enumerate(config.rewards):
        yield ("rewards", index), "reward", reward

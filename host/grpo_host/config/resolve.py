"""Finds the plugins that a configuration names and validates their options: once, for all that use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from grpo_host.config.load import LoadedConfig
from grpo_host.plugins.options import ResolvedUse, resolve_use
from grpo_sdk.errors import GrpoError

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig
    from grpo_host.plugins import Kind, Registry
    from grpo_host.plugins.use import BackendUse, PluginUse
    from grpo_host.utils.validation import Location

T = TypeVar("T")


@dataclass(frozen=True)
class ResolvedConfig(LoadedConfig):
    """A configuration whose plugins can be used: what is found and made for one place of it is kept.

    A check makes rewards, tools, strategy and curriculum; a run goes on with them.
    """

    registry: Registry = field(repr=False)
    closing: ExitStack = field(default_factory=ExitStack, init=False, repr=False)
    """Closes the rewards that were made, until somebody takes all parts (``assembly.from_yaml.build``)."""
    _kept: dict[Location, Any] = field(default_factory=dict, init=False, repr=False)

    def use(self, location: Location) -> ResolvedUse:
        """What ``location`` names, its options validated.

        Raises ``PluginError`` if it is not there, or ``OptionsError`` if options do not fit.
        """
        return self.once(("use", *location), lambda: resolve_use(*self._named(location), self.registry))

    def once(self, location: Location, make: Callable[[], T]) -> T:
        """What ``make`` makes for ``location``, at the first call; later the same."""
        if location not in self._kept:
            self._kept[location] = make()
        return cast("T", self._kept[location])

    def kept(self, location: Location) -> Any:
        """What was made for ``location``; None if nothing was."""
        return self._kept.get(location)

    def backend_options(self) -> Iterator[Location]:
        """The options that name backends of rewards and environments, if the other options fit."""
        for location, kind, _ in plugin_uses(self.config):
            if kind in ("reward", "environment"):
                with suppress(GrpoError):
                    yield from ((*location, "options", name) for name in self.use(location).backends)

    def backend_use(self, location: Location) -> BackendUse:
        """The reward's or environment's own backend that the option at ``location`` names."""
        return self.use(location[:-2]).backends[cast("str", location[-1])]

    def _named(self, location: Location) -> tuple[Kind, PluginUse]:
        named = {at: (kind, use) for at, kind, use in plugin_uses(self.config)}
        return named[location] if location in named else ("backend", self.backend_use(location))


def resolve(loaded: LoadedConfig, registry: Registry) -> ResolvedConfig:
    """``loaded`` with the plugins of ``registry``; itself if it is that already."""
    if isinstance(loaded, ResolvedConfig) and loaded.registry is registry:
        return loaded
    return ResolvedConfig(loaded.path, loaded.config, loaded.origin, loaded.references, registry)


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

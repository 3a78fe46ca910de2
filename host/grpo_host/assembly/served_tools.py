"""The tools of a served agent: those of agent.yaml, and what its environment offers without an episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpo_host.assembly.from_yaml import build_environment, environment_overrides
from grpo_host.assembly.tools import build_tools, close_bundles
from grpo_host.plugins.failures import cause
from grpo_sdk.environment import Environment
from grpo_sdk.errors import GrpoError, PluginError
from grpo_sdk.strategy import Strategy
from grpo_sdk.tools import BoundTool, bind

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig


@dataclass(frozen=True)
class ServedTools:
    """All of them, ready to run."""

    own: tuple[BoundTool, ...] = ()
    """Of agent.yaml."""
    environments: tuple[BoundTool, ...] = ()
    """Of ``environment``: offered whatever the strategy, as in an episode."""
    environment: Environment | None = None
    """The instance behind them."""

    def of(self, strategy: Strategy) -> tuple[BoundTool, ...]:
        """Those that ``strategy`` may use."""
        own = [tool for tool in self.own if strategy.tools is None or tool.name in strategy.tools]
        return (*own, *self.environments)

    async def close(self) -> None:
        """Close what is open behind them, the environment included."""
        await close_bundles(self.own)
        if self.environment is not None:
            await self.environment.close()


def served_tools(resolved: ResolvedConfig) -> ServedTools:
    """The tools of the agent. Raises ``PluginError`` or ``ConfigError``, also if two have one name."""
    own = tuple(bind(tool) for tool in build_tools(resolved, Strategy("all")))
    environment, theirs = environment_tools(resolved)
    names = [tool.name for tool in (*own, *theirs)]
    for name in names:
        if names.count(name) > 1:
            raise PluginError(
                f'two tools of the served agent are called "{name}". Leave it out of agent.tools where the '
                "environment offers it"
            )
    return ServedTools(own, theirs, environment)


def environment_tools(resolved: ResolvedConfig) -> tuple[Environment | None, tuple[BoundTool, ...]]:
    """What the environment offers for serving, and the instance behind it.

    An environment that offers nothing is not even made: if an agent is served, the data of its episodes
    need not be.
    """
    config = resolved.config
    if not any(environment_overrides(use, resolved.registry, "serving_tools") for _, use in config.played):
        return None, ()
    environment = build_environment(resolved)()
    try:
        tools = tuple(bind(tool) for tool in environment.serving_tools())
    except GrpoError:
        raise
    except Exception as problem:  # plugin code
        raise PluginError(
            f'serving_tools() of the environment "{config.environment_label}" failed: {cause(problem)}'
        ) from problem
    return environment, tools


def lacks_tools_of_episodes(resolved: ResolvedConfig) -> list[str]:
    """The environments whose episodes have tools that the served agent has to do without."""
    return [
        use.label
        for _, use in resolved.config.played
        if environment_overrides(use, resolved.registry, "tools")
        and not environment_overrides(use, resolved.registry, "serving_tools")
    ]

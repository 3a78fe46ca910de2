"""Makes the tools that agent.yaml names. Those of a bundle are described at once, and opened when used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from grpo_host.backends.event_loop import run_blocking
from grpo_host.plugins.options import choose
from grpo_sdk.bundles import LiveBundle, as_bundle, bundle_schemas
from grpo_sdk.errors import GrpoError, PluginError
from grpo_sdk.tools import BoundTool, ToolLike, as_tool

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig
    from grpo_host.plugins import Registry
    from grpo_host.plugins.use import PluginUse
    from grpo_sdk.messages import ToolSchema
    from grpo_sdk.strategy import Strategy

_described: dict[tuple[Any, str], list[ToolSchema]] = {}


def build_tools(config: AgentConfig, registry: Registry, strategy: Strategy) -> list[ToolLike]:
    """The tools of agent.yaml that ``strategy`` may use."""
    tools = [tool for use in config.agent.tools for tool in make_tools(use, registry)]
    return [tool for tool in tools if strategy.tools is None or tool_name(tool) in strategy.tools]


def make_tools(use: PluginUse, registry: Registry) -> list[ToolLike]:
    """What ``use`` names: one tool, or those of a bundle. Raises ``PluginError`` or ``ConfigError``."""
    offer, options = choose("tool", use, registry)
    made = offer.make(**options)
    bundle = as_bundle(made, lambda: offer.make(**options))
    try:
        if bundle is None:
            return [as_tool(tool) for tool in (made if isinstance(made, list | tuple) else [made])]
        # Several starts of a server, for check, for build and for the run, would be felt.
        key = (offer.factory, repr(sorted(options.items())))
        if key not in _described:
            _described[key] = run_blocking(bundle_schemas(str(offer), bundle))
        return list(LiveBundle(f'tool "{offer.name}"', bundle, _described[key]).tools)
    except GrpoError:
        raise
    except (TypeError, ValueError) as problem:
        raise PluginError(f"{offer} is no tool: {problem}") from problem


def tool_name(tool: ToolLike) -> str:
    """What the model calls ``tool``."""
    return tool.name if isinstance(tool, BoundTool) else as_tool(tool).name


def bundles_of(tools: Iterable[ToolLike]) -> Sequence[LiveBundle]:
    """The bundles that ``tools`` are of, each once: whoever uses the tools starts and closes them."""
    sources = [tool.source for tool in tools if isinstance(tool, BoundTool)]
    return list(dict.fromkeys(source for source in sources if isinstance(source, LiveBundle)))


async def close_bundles(tools: Iterable[ToolLike]) -> None:
    """Close what ``tools`` opened for a run."""
    for bundle in bundles_of(tools):
        await bundle.close()

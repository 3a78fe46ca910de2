"""Makes the tools that agent.yaml names. Those of a bundle are described at once, and opened when used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from grpo_host.backends.event_loop import run_blocking
from grpo_sdk.bundles import LiveBundle, as_bundle, bundle_schemas
from grpo_sdk.errors import GrpoError, PluginError
from grpo_sdk.tools import BoundTool, ToolLike, as_tool, bind

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig
    from grpo_host.plugins.options import ResolvedUse
    from grpo_sdk.strategy import Strategy


def build_tools(resolved: ResolvedConfig, strategy: Strategy) -> list[ToolLike]:
    """The tools of agent.yaml that ``strategy`` may use."""
    uses = range(len(resolved.config.agent.tools))
    tools = [tool for index in uses for tool in tools_of(resolved, index)]
    return [tool for tool in tools if strategy.tools is None or tool_name(tool) in strategy.tools]


def tools_of(resolved: ResolvedConfig, index: int) -> list[ToolLike]:
    """The tools that one item of ``agent.tools`` names. Raises as ``make_tools`` does."""
    location = ("agent", "tools", index)
    return resolved.once(location, lambda: make_tools(resolved.use(location)))


def make_tools(chosen: ResolvedUse) -> list[ToolLike]:
    """What is named: one tool, or those of a bundle. Raises ``PluginError`` or ``ConfigError``."""
    offer, options = chosen.offer, chosen.arguments()
    made = offer.make(**options)
    bundle = as_bundle(made, lambda: offer.make(**options))
    try:
        if bundle is None:
            tools = [as_tool(tool) for tool in (made if isinstance(made, list | tuple) else [made])]
            for tool in tools:
                bind(tool)  # its type hints may have no schema
            return [*tools]
        schemas = run_blocking(bundle_schemas(str(offer), bundle))
        return list(LiveBundle(f'tool "{offer.name}"', bundle, schemas).tools)
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

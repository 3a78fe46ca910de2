"""The parts that agent.yaml names, put together: for an agent of ours, or an app of LangChain's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from grpo_host.assembly.from_yaml import build
from grpo_host.assembly.runtime import Assembly

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig


def assemble(resolved: ResolvedConfig, *, progress: Callable[[str], None] | None = None) -> Assembly:
    """Make every part that is not made yet; the backend is not started."""
    config, parts = resolved.config, build(resolved, progress=progress)
    if config.agent.runnable is None:
        return Assembly(config, parts)
    from grpo_host.langchain.app_assembly import AppAssembly

    return AppAssembly(config, parts)

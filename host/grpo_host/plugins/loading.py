"""Find the entry points of group ``grpo`` and load each in isolation."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points

from grpo_host.plugins.failures import described, pass_interrupts
from grpo_host.plugins.record import Plugin
from grpo_host.plugins.registry import Registry
from grpo_sdk.errors import PluginError, did_you_mean
from grpo_sdk.hooks import ENTRY_POINT_GROUP

logger = logging.getLogger("grpo_host.plugins")


def _warn(plugin: Plugin) -> None:
    logger.warning("plugin %s is broken and left out: %s", plugin, plugin.error)


def load_plugins(
    allow: Collection[str] | None = None,
    disable: bool = False,
    *,
    registry: Registry | None = None,
    report: Callable[[Plugin], None] = _warn,
) -> Registry:
    """Load the installed plugins into ``registry``, or a new one.

    ``allow`` names entry points, distributions or ``distribution/entry point``; others are not
    even imported. ``disable`` loads none. ``report`` is told of each broken plugin. Plugins that
    ``registry`` holds already are not loaded again. Raises ``PluginError`` if a plugin that
    ``allow`` names is missing or broken.
    """
    registry = registry or Registry()
    if disable:
        return registry
    found = [(entry_point, _describe(entry_point)) for entry_point in _entry_points()]
    wanted = [pair for pair in found if allow is None or any(map(pair[1].is_called, allow))]
    for entry_point, plugin in wanted:
        if plugin.identifier not in registry:
            _load(entry_point, plugin, registry, report if allow is None else _refuse)
    for name in allow or ():
        if not any(plugin.is_called(name) for _, plugin in found):
            known = sorted({n for _, p in found for n in (p.name, p.distribution)})
            raise PluginError(
                f'plugin "{name}" is not installed.{did_you_mean(name, known)} '
                f"Run grpo-host plugins to list what is."
            )
    return registry


def _entry_points() -> list[EntryPoint]:
    return sorted(
        entry_points(group=ENTRY_POINT_GROUP),
        key=lambda e: (e.dist.name.lower() if e.dist else "", e.name),
    )


def _describe(entry_point: EntryPoint) -> Plugin:
    distribution = entry_point.dist
    if distribution is None:
        return Plugin(entry_point.name, "unknown")
    return Plugin(entry_point.name, distribution.name, distribution.version)


def _load(
    entry_point: EntryPoint, plugin: Plugin, registry: Registry, report: Callable[[Plugin], None]
) -> None:
    began = time.perf_counter()
    try:
        # What a plugin prints while it is imported must not mix with what a command prints.
        with contextlib.redirect_stdout(sys.stderr):
            loaded = entry_point.load()
            registry.register(
                loaded,
                plugin.name,
                distribution=plugin.distribution,
                version=plugin.version,
                seconds=time.perf_counter() - began,
            )
    except PluginError as error:
        why = str(error.__cause__ or error)
    except BaseException as error:
        pass_interrupts(error)
        logger.debug("plugin %s", plugin, exc_info=True)
        why = described(error)
    else:
        return
    seconds = time.perf_counter() - began
    broken = Plugin(plugin.name, plugin.distribution, plugin.version, error=why, seconds=seconds)
    registry.record_broken(broken)
    report(broken)


def _refuse(plugin: Plugin) -> None:
    raise PluginError(
        f"plugin {plugin} was asked for and is broken: {plugin.error}. "
        f"Mend or reinstall it, or leave it out of --plugins"
    )

"""Are the installed plugins well: do they load, quickly, and under names of their own?"""

from __future__ import annotations

from collections.abc import Iterator

from grpo_host.checks.findings import Finding
from grpo_host.plugins import KINDS, Plugin, Registry
from grpo_host.plugins.describe import describe

SLOW_SECONDS = 2.0
"""A plugin that takes longer to import makes every command slow."""


def examine_plugins(registry: Registry) -> Iterator[Finding]:
    """What there is to say of each plugin, and of what they offer."""
    if not registry.plugins:
        yield Finding("warning", "plugins", "none is loaded", "leave out --no-plugins and --plugins")
    for plugin in registry.plugins:
        yield _examine(plugin)
    yield from _examine_offers(registry)


def _examine(plugin: Plugin) -> Finding:
    subject = f"plugin {plugin.identifier}"
    if plugin.error is not None:
        return Finding(
            "error",
            subject,
            f"it cannot be loaded: {plugin.error}",
            f"mend it, install another version, or pip uninstall {plugin.distribution}; until then its names "
            "are not offered",
        )
    if plugin.seconds > SLOW_SECONDS:
        return Finding(
            "warning",
            subject,
            f"it takes {plugin.seconds:.1f} s to import, in every process of the host",
            "its author should import heavy packages within its factories (PluginContract finds which)",
        )
    offers = ", ".join(f"{len(names)} of {kind}" for kind, names in plugin.offers.items() if names)
    says = "; ".join(filter(None, [offers, ", ".join(plugin.observes)])) or "offers nothing"
    version = plugin.version or "no version"
    return Finding("ok", subject, f"{version}, {says}, {plugin.seconds:.2f} s to import")


def _examine_offers(registry: Registry) -> Iterator[Finding]:
    for kind in KINDS:
        offers = registry.offers(kind)
        for offer in offers:
            if problem := describe(offer).get("error"):
                yield Finding(
                    "warning",
                    f'{kind} "{offer.name}"',
                    f"agent.yaml cannot name it: {problem}",
                    "its author should give the option a default or a type of YAML",
                )
        for name in registry.names(kind):
            alike = [offer for offer in offers if offer.name == name]
            if len(alike) > 1:
                choices = " or ".join(f'"{registry.qualified(offer)}"' for offer in alike)
                yield Finding(
                    "warning",
                    f'{kind} "{name}"',
                    f"{' and '.join(str(offer.plugin) for offer in alike)} offer it",
                    f"write {choices} in agent.yaml",
                )

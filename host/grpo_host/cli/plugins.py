"""``grpo-host plugins``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from grpo_host.cli.command import Command, PluginChoice

if TYPE_CHECKING:
    from grpo_host.plugins import Plugin


@click.command(
    "plugins",
    cls=Command,
    examples=["grpo-host plugins", "grpo-host plugins --json | jq '.[] | select(.error)'"],
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(choice: PluginChoice, as_json: bool) -> None:
    """List the installed plugins, what they offer, and the broken ones with their cause."""
    plugins = choice.load(report=lambda _: None).plugins
    if as_json:
        click.echo(json.dumps([_record(plugin) for plugin in plugins], indent=2))
    else:
        _print_table(plugins)


def _record(plugin: Plugin) -> dict[str, object]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "offers": {kind: list(names) for kind, names in plugin.offers.items()},
        "observes": list(plugin.observes),
        "error": plugin.error,
    }


def _print_table(plugins: list[Plugin]) -> None:
    from grpo_host.cli.table import print_table

    if not plugins:
        click.echo("No plugins are loaded. Install one, or leave out --no-plugins and --plugins.")
        return
    print_table(
        ("plugin", "distribution", "version", "offers"),
        [(p.name, p.distribution, p.version, _offers(p)) for p in plugins],
        marked={index for index, plugin in enumerate(plugins) if plugin.error is not None},
    )


def _offers(plugin: Plugin) -> str:
    if plugin.error is not None:
        return f"broken: {plugin.error}"
    lines = [f"{kind}: {', '.join(names)}" for kind, names in plugin.offers.items() if names]
    if plugin.observes:
        lines.append(f"observes: {', '.join(plugin.observes)}")
    return "\n".join(lines)

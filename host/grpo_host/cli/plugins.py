"""``grpo-host plugins``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

import click

from grpo_host.cli.command import Command, Group, PluginChoice
from grpo_host.plugins.record import Kind

if TYPE_CHECKING:
    from grpo_host.plugins import Plugin


@click.group(
    "plugins",
    cls=Group,
    invoke_without_command=True,
    examples=[
        "grpo-host plugins",
        "grpo-host plugins show dataset",
        "grpo-host plugins --json | jq '.[] | select(.error)'",
    ],
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--timings", is_flag=True, help="Show how long each plugin took to import.")
@click.pass_context
def command(ctx: click.Context, as_json: bool, timings: bool) -> None:
    """List the installed plugins, what they offer, and the broken ones with their cause."""
    if ctx.invoked_subcommand is not None:
        return
    choice: PluginChoice = ctx.obj
    plugins = choice.load(report=lambda _: None).plugins
    if as_json:
        click.echo(json.dumps([_record(plugin, timings) for plugin in plugins], indent=2))
    else:
        _print_table(plugins, timings)


@command.command(
    "show",
    cls=Command,
    examples=[
        "grpo-host plugins show dataset",
        "grpo-host plugins show acme:shop --json",
        "grpo-host plugins show ./my.py:exact",
    ],
)
@click.argument("name")
@click.option("--kind", type=click.Choice(get_args(Kind)), help="Only what is of this kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the options as a JSON schema.")
@click.pass_obj
def show(choice: PluginChoice, name: str, kind: Kind | None, as_json: bool) -> None:
    """Show what NAME is: its options with types and defaults, its docstring, its file and package."""
    from grpo_host.plugins.describe import describe, find_offers

    found = find_offers(choice.load(report=lambda _: None), name, kind)
    if as_json:
        click.echo(json.dumps([describe(offer) for offer in found], indent=2))
        return
    click.echo("\n".join(_text(describe(offer), str(offer.plugin)) for offer in found))


def _text(item: dict[str, Any], by: str) -> str:
    lines = [f'{item["kind"]} "{item["name"]}" of {by}', *([item["place"]] if item["place"] else [])]
    lines += ["", item["doc"], ""] if item["doc"] else [""]
    if item["options"] is None:
        return "\n".join([*lines, f"cannot be named in agent.yaml: {item['error']}"])
    options = item["options"]["properties"]
    width = max(map(len, options), default=0)
    lines += ["options:"] if options else ["no options"]
    lines += [f"  {name:<{width}}  {_value(field)}" for name, field in options.items()]
    return "\n".join(lines) + "\n"


def _value(field: dict[str, Any]) -> str:
    default = f" = {json.dumps(field['default'])}" if "default" in field else "  (must be given)"
    return f"{_type(field)}{default}"


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " | ".join(map(_type, field["anyOf"]))
    if "enum" in field:
        return " | ".join(json.dumps(value) for value in field["enum"])
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return str(field.get("format") or field.get("type", "any"))


def _record(plugin: Plugin, timings: bool) -> dict[str, object]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "offers": {kind: list(names) for kind, names in plugin.offers.items()},
        "observes": list(plugin.observes),
        "error": plugin.error,
        **({"seconds": round(plugin.seconds, 4)} if timings else {}),
    }


def _print_table(plugins: list[Plugin], timings: bool) -> None:
    from grpo_host.cli.table import print_table

    if not plugins:
        click.echo("No plugins are loaded. Install one, or leave out --no-plugins and --plugins.")
        return
    more = ("import",) if timings else ()
    print_table(
        ("plugin", "distribution", "version", *more, "offers"),
        [
            (p.name, p.distribution, p.version, *([f"{p.seconds:.3f} s"] if timings else []), _offers(p))
            for p in plugins
        ],
        marked={index for index, plugin in enumerate(plugins) if plugin.error is not None},
    )


def _offers(plugin: Plugin) -> str:
    if plugin.error is not None:
        return f"broken: {plugin.error}"
    lines = [f"{kind}: {', '.join(names)}" for kind, names in plugin.offers.items() if names]
    if plugin.observes:
        lines.append(f"observes: {', '.join(plugin.observes)}")
    return "\n".join(lines)

"""``grpo-host`` itself: its options, and which file holds which subcommand."""

from __future__ import annotations

import logging
from importlib import import_module

import click

from grpo_host.cli.command import Command, Group, PluginChoice

COMMANDS = (
    "run",
    "check",
    "eval",
    "rollout",
    "gateway",
    "score",
    "serve",
    "runs",
    "watch",
    "report",
    "view",
    "export",
    "keys",
    "new",
    "plugins",
    "models",
    "doctor",
    "schema",
)
"""In the order of the help. Each is ``command`` in the module of its name."""


class LazyGroup(Group):
    """Imports a subcommand's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"grpo_host.cli.{_MODULES.get(cmd_name, cmd_name)}")
        command: Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from grpo_sdk.errors import did_you_mean

        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            hint = did_you_mean(name, list(COMMANDS)) or f" There are: {', '.join(COMMANDS)}."
            ctx.fail(f'no command "{name}".{hint}')
        return super().resolve_command(ctx, args)


_MODULES = {"eval": "evaluate"}
"""Command → its module, if a module of the command's name would hide a builtin."""


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"grpo-host {version('grpo-agent-framework')}")
    ctx.exit()


def _log(level: str | None) -> None:
    """Log what is ours from ``level`` on; without this, warnings alone are shown."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("grpo_host", "grpo_sdk", "grpo_backends"):
        logging.getLogger(name).setLevel((level or "").upper())


@click.group(
    cls=LazyGroup,
    examples=[
        "grpo-host run agent.yaml",
        "grpo-host check agent.yaml --set training.steps=5",
        "grpo-host plugins",
    ],
)
@click.option("--no-plugins", is_flag=True, help="Load no plugins, not even the built-in ones.")
@click.option(
    "--plugins",
    metavar="NAME,...",
    envvar="GRPO_PLUGINS",
    help="Load only these: entry points, distributions or distribution/entry-point.",
)
@click.option("--verbose", is_flag=True, help="Log more: every traceback of a plugin, not only the first.")
@click.option(
    "--log",
    "level",
    metavar="LEVEL",
    envvar="GRPO_LOG",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    help="What to log on stderr: debug, info, warning or error.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Print the version.",
)
@click.pass_context
def grpo_host(
    ctx: click.Context, no_plugins: bool, plugins: str | None, verbose: bool, level: str | None
) -> None:
    """Train, evaluate and run language-model agents that are made of plugins."""
    if verbose or level:
        _log("debug" if verbose else level)
    allow = None if plugins is None else [name for p in plugins.split(",") if (name := p.strip())]
    ctx.obj = PluginChoice(allow, no_plugins)

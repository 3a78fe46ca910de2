"""What the subcommands share: help that begins with examples, common arguments, the plugins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from grpo_host.config.overrides import Override
    from grpo_host.plugins import Plugin, Registry

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class PluginChoice:
    """Which plugins the user wants."""

    allow: Sequence[str] | None = None
    disable: bool = False

    def load(self, report: Callable[[Plugin], None] | None = None) -> Registry:
        """Load them. Broken ones are reported on stderr, unless ``report`` takes them."""
        from grpo_host.plugins import load_plugins

        return load_plugins(self.allow, self.disable, report=report or _warn)


def _warn(plugin: Plugin) -> None:
    click.echo(f"warning: plugin {plugin} is broken and left out: {plugin.error}", err=True)


class Command(click.Command):
    """A command whose help is a sentence, then examples, and then usage and options."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def get_short_help_str(self, limit: int = 0) -> str:
        """The whole sentence: a list of commands wraps it if the terminal is narrow."""
        return super().get_short_help_str(limit=1000)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sentence, _, rest = cleandoc(self.help or "").partition("\n\n")
        formatter.write_text(sentence)
        if self.examples:
            formatter.write_paragraph()
            formatter.write("Examples:\n")
            for example in self.examples:
                formatter.write(f"  {example}\n")
        formatter.write_paragraph()
        self.format_usage(ctx, formatter)
        if rest:
            formatter.write_paragraph()
            formatter.write_text(rest)
        self.format_options(ctx, formatter)


class Group(Command, click.Group):
    """One with subcommands."""


class _Path(click.Path):
    """A path in which ``~`` is the home directory, even if a shell leaves it: ``--out=~/x``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from grpo_host.utils.paths import expanded

        return expanded(str(super().convert(value, param, ctx)))


PATH = _Path(path_type=Path)


def agent_yaml(function: F) -> F:
    """The argument AGENT_YAML."""
    return click.argument("agent_yaml", type=PATH)(function)


def overrides(function: F) -> F:
    """The option ``--set``."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a setting, e.g. rewards[0].weight=0.2; may be repeated.",
    )(function)


def recordings(function: F) -> F:
    """The options ``--record`` and ``--replay``."""
    record = click.option(
        "--record",
        is_flag=True,
        help="Keep what tools, judges and hosted models answer, so that it can be replayed.",
    )
    replay = click.option(
        "--replay",
        metavar="RUN",
        help="Take the answers of tools, judges and hosted models from a recorded run: its id, its directory "
        "or file, or latest. None of them is asked.",
    )
    return record(replay(function))


def with_plugins(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives the command a ``registry``, loaded as the user wants."""

    @click.pass_obj
    @functools.wraps(function)
    def call(choice: PluginChoice, *args: Any, **kwargs: Any) -> Any:
        return function(*args, registry=choice.load(), **kwargs)

    return call


def plugin_options(choice: PluginChoice) -> list[str]:
    """The command-line options of grpo-host that give ``choice``."""
    options = ["--no-plugins"] if choice.disable else []
    return options if choice.allow is None else [*options, "--plugins", ",".join(choice.allow)]


def option_override(option: str, location: tuple[str, ...], value: Any) -> list[Override]:
    """The override that a command-line option stands for; none if it was not given."""
    from grpo_host.config.overrides import Override

    return [] if value is None else [Override(location, value, option)]

"""Every command of ``grpo-host`` with its arguments and options, from click."""

from __future__ import annotations

import inspect
import json

import click
from json_schema import markdown_table

from grpo_host.cli.group import grpo_host


def commands() -> str:
    """A section for ``grpo-host``, each command, and each command of a command."""
    return "\n".join(_sections(grpo_host, "grpo-host", None))


def _sections(command: click.Command, name: str, parent: click.Context | None) -> list[str]:
    context = click.Context(command, info_name=name.rpartition(" ")[2], parent=parent)
    anchor = name.replace(" ", "-")
    parts = [f"## `{name}` {{#{anchor}}}\n", f"{inspect.cleandoc(command.help or '')}\n"]
    usage = f"{name} {' '.join(command.collect_usage_pieces(context))}"
    examples = list(getattr(command, "examples", ()))
    parts += ["```bash", usage, *(["", *examples] if examples else []), "```", ""]
    rows = [_row(param, context) for param in command.get_params(context) if "--help" not in param.opts]
    if rows:
        parts.append(markdown_table(("parameter", "value", "default", "variable", "meaning"), rows))
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None, child
            parts += _sections(found, f"{name} {child}", context)
    return parts


def _row(param: click.Parameter, context: click.Context) -> tuple[str, ...]:
    if isinstance(param, click.Option):
        names = ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
        value = "" if param.is_flag else _value(param, context)
        meaning = param.help or ""
    else:
        names, value, meaning = f"`{param.make_metavar(context)}`", "", ""
    variable = f"`{param.envvar}`" if param.envvar else ""
    return names, value, _default(param, context), variable, meaning


def _value(param: click.Option, context: click.Context) -> str:
    if isinstance(param.type, click.Choice):
        return ", ".join(f"`{choice}`" for choice in param.type.choices)
    return f"`{param.make_metavar(context)}`"


def _default(param: click.Parameter, context: click.Context) -> str:
    if param.required:
        return "**required**"
    default = param.get_default(context, call=False)
    if default is None or default is False or param.multiple or not isinstance(default, str | int | float):
        return ""
    return f"`{json.dumps(default)}`"

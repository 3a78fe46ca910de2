"""``grpo-host new``."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import click

from grpo_host.cli.command import PATH, Command, Group


@click.group(
    "new",
    cls=Group,
    examples=[
        "grpo-host new agent my-agent",
        "grpo-host new plugin acme-rewards --kinds reward,tool",
        "grpo-host new deployment deploy --agent agent.yaml",
    ],
)
def command() -> None:
    """Write files to begin with."""


@command.command(
    "deployment",
    cls=Command,
    examples=["grpo-host new deployment", "grpo-host new deployment deploy --agent agent.yaml"],
)
@click.argument("directory", type=PATH, default=Path("deployment"))
@click.option(
    "--agent",
    "agent_yaml",
    type=PATH,
    help="The agent.yaml that is to be served; without it, one to begin with is written.",
)
@click.option("--force", is_flag=True, help="Overwrite what is there, except .env.")
def deployment(directory: Path, agent_yaml: Path | None, force: bool) -> None:
    """Write a Dockerfile, a compose file and Kubernetes manifests.

    They go into DIRECTORY [./deployment]. Nothing that exists is overwritten without --force.
    """
    from grpo_host.scaffold.deployment import left_behind, wheel_command, write_deployment

    wheel = wheel_command()
    written = write_deployment(directory, agent_yaml=agent_yaml, force=force)
    click.echo(f"wrote {len(written)} files to {directory}; README.md there tells of each", err=True)
    for name in left_behind(agent_yaml) if agent_yaml else ():
        click.echo(f"not among them: {name}, which {agent_yaml} names; mount it, or copy it in", err=True)
    for line in (
        f"cd {shlex.quote(str(directory))}",
        # On no package index yet, or changed here: the image is to have what is installed here.
        *([wheel] if wheel else []),
        "docker compose build",
        "docker compose run --rm server keys create --name me --scopes chat,train,admin",
        "docker compose up",
    ):
        click.echo(line)


@command.command("agent", cls=Command, examples=["grpo-host new agent my-agent"])
@click.argument("directory", type=PATH)
@click.option("--force", is_flag=True, help="Overwrite what is there.")
def agent(directory: Path, force: bool) -> None:
    """Write an agent.yaml, a file of questions and a file with a reward.

    They go into DIRECTORY, and the agent is called as it. Nothing that exists is overwritten without --force.
    """
    from grpo_host.scaffold.authoring import write_agent

    _say(
        directory,
        write_agent(directory, force=force),
        "grpo-host check agent.yaml",
        "grpo-host run agent.yaml",
        "grpo-host serve agent.yaml --run latest",
    )


@command.command(
    "plugin",
    cls=Command,
    examples=[
        "grpo-host new plugin acme-rewards",
        "grpo-host new plugin acme-desk --kinds reward,tool,environment,strategy,backend",
    ],
)
@click.argument("directory", type=PATH)
@click.option(
    "--kinds",
    default="reward",
    show_default=True,
    help="What the plugin offers, separated by commas: reward, tool, environment, strategy, backend.",
)
@click.option("--force", is_flag=True, help="Overwrite what is there.")
def plugin(directory: Path, kinds: str, force: bool) -> None:
    """Write a package that pip installs: a plugin with tests, and an agent.yaml that uses it.

    It goes into DIRECTORY, and is called as it. Nothing that exists is overwritten without --force.
    """
    from grpo_host.scaffold.authoring import parse_kinds, write_plugin

    _say(
        directory,
        write_plugin(directory, parse_kinds(kinds), force=force),
        "pip install -e '.[test]'",
        "pytest",
        "grpo-host check agent.yaml",
        "grpo-host run agent.yaml",
    )


def _say(directory: Path, written: list[Path], *commands: str) -> None:
    """What was written, and the commands that come next."""
    click.echo(f"wrote {len(written)} files to {directory}; README.md there tells of each", err=True)
    activate = Path(sys.prefix, "bin", "activate")
    if shutil.which("grpo-host") != str(activate.with_name("grpo-host")) and activate.is_file():
        click.echo(f". {shlex.quote(str(activate))}")
    for line in (f"cd {shlex.quote(str(directory))}", *commands):
        click.echo(line)

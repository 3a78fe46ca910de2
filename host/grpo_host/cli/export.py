"""``grpo-host export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grpo_host.cli.command import PATH, Command, with_plugins

if TYPE_CHECKING:
    from grpo_host.plugins import Registry
    from grpo_host.runs.directory import RunDirectory

RUNS = "runs"
"""The directory to search for runs without an agent.yaml: the default of ``output``."""


@click.command(
    "export",
    cls=Command,
    examples=[
        "grpo-host export latest",
        "grpo-host export runs/support-desk/20261122-101500-ab12 --format adapter --out my-adapter",
        "grpo-host export latest --agent agent.yaml --push my-name/support-desk",
    ],
)
@click.argument("run")
@click.option(
    "--format",
    type=click.Choice(["merged", "adapter", "openenv"]),
    default="merged",
    show_default=True,
    help="A whole model, the PEFT adapter alone, or the trajectories as OpenEnv's training traces.",
)
@click.option(
    "--out",
    type=PATH,
    metavar="PATH",
    help="Where to write it [export/FORMAT in the run]; of traces, a file [export/openenv.jsonl].",
)
@click.option("--push", metavar="REPO", help="Upload it to this repository of the model hub, too.")
@click.option(
    "--agent",
    "agent_yaml",
    type=PATH,
    metavar="AGENT_YAML",
    help="Look for the run among this agent's; without it, among all in ./runs.",
)
@with_plugins
def command(
    run: str, format: Any, out: Path | None, push: str | None, agent_yaml: Path | None, registry: Registry
) -> None:
    """Write what a run has trained as a directory that transformers, PEFT and vLLM load.

    RUN is a run's directory, its id, or latest. The directory is self-contained: weights, tokenizer, chat
    template, and a model card that says how it was made. --push takes the token of huggingface_hub
    (HF_TOKEN, or hf auth login); a new repository is private.
    """
    if format == "openenv":
        from grpo_host.export.openenv import export_traces

        if push:
            raise click.UsageError("--push takes a model; traces stay here")
        click.echo(export_traces(find_run(run, agent_yaml), out=out))
        return
    from grpo_host.utils.quiet import quiet_libraries

    quiet_libraries()

    from grpo_host.export.directory import export_run
    from grpo_host.export.hub import make_repository, upload

    found = find_run(run, agent_yaml)
    address = make_repository(push) if push else None

    def say(text: str) -> None:
        click.echo(text, err=True)

    written = export_run(found, registry, format=format, out=out, say=say)
    say(f"run {found.path}")
    click.echo(written)
    if push:
        upload(written, push)
        say(f"uploaded to {address}")


def find_run(which: str, agent_yaml: Path | None) -> RunDirectory:
    """The run ``which``: a path, an id, or the latest that has trained something. Raises ``RunError``."""
    from grpo_host.config.load import load_config
    from grpo_host.runs.directory import RunDirectory
    from grpo_host.utils.paths import expanded
    from grpo_sdk.errors import RunError

    if agent_yaml is not None:
        config = load_config(agent_yaml).config
        return RunDirectory.find(Path(config.output), config.name, which, trained=True)
    runs = Path(RUNS)
    if which != "latest" and (expanded(which) / "agent.yaml").is_file():
        return RunDirectory(expanded(which))
    agents = sorted({path.parent.parent.name for path in runs.glob("*/*/agent.yaml")})
    if which != "latest":
        agents = [name for name in agents if (runs / name / which / "agent.yaml").is_file()]
    found = [RunDirectory.find(runs, name, which, trained=True) for name in agents]
    if not found:
        raise RunError(
            f"no run {which} in {runs.absolute()}. Give a run's directory, or --agent with the agent.yaml "
            "that it was made from"
        )
    return max(found, key=lambda run: run.path.name)  # ids sort by time

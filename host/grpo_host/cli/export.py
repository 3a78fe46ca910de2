"""``grpo-host export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grpo_host.cli.command import PATH, Command, with_plugins
from grpo_host.export.formats import FORMATS

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
        "grpo-host export all --format demonstration --out demonstrations.jsonl",
    ],
)
@click.argument("run")
@click.option(
    "--format",
    type=click.Choice(["merged", "adapter", "openenv", *FORMATS]),
    default="merged",
    show_default=True,
    help="A whole model, the PEFT adapter alone, or the trajectories as OpenEnv's training traces; of served "
    "conversations: trajectories, tasks, demonstrations or feedback.",
)
@click.option(
    "--out",
    type=PATH,
    metavar="PATH",
    help="Where to write it [export/FORMAT in the run; of traces, export/openenv.jsonl; of conversations, "
    "FORMAT.jsonl here].",
)
@click.option("--push", metavar="REPO", help="Upload it to this repository of the model hub, too.")
@click.option(
    "--agent",
    "agent_yaml",
    type=PATH,
    metavar="AGENT_YAML",
    help="Look for the run among this agent's; without it, among all in ./runs. Of conversations: the "
    "agent.yaml that is served [./agent.yaml].",
)
@click.option(
    "--database", envvar="GRPO_DATABASE_URL", metavar="URL", help="Of conversations: the server's database."
)
@click.option("--owner", metavar="OWNER", help="Of conversations: those of this owner alone.")
@with_plugins
def command(
    run: str,
    format: Any,
    out: Path | None,
    push: str | None,
    agent_yaml: Path | None,
    database: str | None,
    owner: str | None,
    registry: Registry,
) -> None:
    """Write what a run has trained as a directory that transformers, PEFT and vLLM load.

    RUN is a run's directory, its id, or latest. The directory is self-contained: weights, tokenizer, chat
    template, and a model card that says how it was made. --push takes the token of huggingface_hub
    (HF_TOKEN, or hf auth login); a new repository is private.

    Of what was served, RUN is a conversation's id, or all: trajectory is for grpo-host score, task for the
    environment dataset, demonstration for training.warm_start.dialogues, feedback for the reward neural. Of
    all, the tasks and demonstrations are those that somebody scored well or corrected.
    """
    if format in FORMATS:
        if push:
            raise click.UsageError("--push takes a model; conversations stay here")
        click.echo(
            export_conversations(run, format, out or Path(f"{format}.jsonl"), agent_yaml, database, owner)
        )
        return
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


def export_conversations(
    which: str, format: Any, out: Path, agent_yaml: Path | None, database: str | None, owner: str | None
) -> Path:
    """Write the conversation ``which``, or ``all``, of the server's database. Raises ``RunError``."""
    import asyncio

    from grpo_host.cli.keys import database_of
    from grpo_host.export.conversations import stored_lines
    from grpo_host.utils.atomic import write_text
    from grpo_sdk.errors import RunError

    if out.exists():
        raise RunError(f"{out} exists; delete it, or name another --out")
    url = database_of(agent_yaml, database)
    lines = asyncio.run(stored_lines(url, None if which == "all" else which, format, owner))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, b"".join(lines).decode())
    return out


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

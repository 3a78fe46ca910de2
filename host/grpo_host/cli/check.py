"""``grpo-host check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grpo_host.cli.command import Command, agent_yaml, overrides, with_plugins

if TYPE_CHECKING:
    from grpo_host.checks.check import Report
    from grpo_host.config.schema import AgentConfig
    from grpo_host.plugins import Registry


@click.command(
    "check",
    cls=Command,
    examples=[
        "grpo-host check agent.yaml",
        "grpo-host check agent.yaml --for eval --set backend=litellm",
        "grpo-host check agent.yaml --resolved > full.yaml",
    ],
)
@agent_yaml
@overrides
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["train", "eval", "rollout", "chat"]),
    default="train",
    show_default=True,
    help="What the agent is to be used for.",
)
@click.option("--resolved", is_flag=True, help="Print the file with every default written out.")
@with_plugins
def command(
    agent_yaml: Path, overrides: tuple[str, ...], purpose: Any, resolved: bool, registry: Registry
) -> None:
    """Find what is wrong with an agent.yaml, without loading a model."""
    from grpo_host.checks.check import check
    from grpo_host.config.load import load_config
    from grpo_host.config.resolve import resolve
    from grpo_host.config.resolved import dump_resolved

    loaded = resolve(load_config(agent_yaml, overrides, registry), registry)
    with loaded.closing:
        report = check(loaded, purpose=purpose).raise_for_problems()
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(dump_resolved(loaded) if resolved else _summary(loaded.config, report, purpose))


def _summary(config: AgentConfig, report: Report, purpose: str) -> str:
    tasks = ", ".join(f"{count} {split}" for split, count in report.tasks.items())
    rewards = " + ".join(f"{use.weight:g} {use.label}" for use in config.rewards)
    rows = {
        "agent": config.name,
        "model": f"{config.model.name} ({config.model.dtype}, {config.model.context} tokens)",
        "backend": config.backend.name,
        "environment": f"{config.environment_label}{f' ({tasks} tasks)' if tasks else ''}",
        "tools": ", ".join(report.tools) or "none",
        "rewards": rewards,
    }
    if report.memory is not None:
        rows["memory"] = str(report.memory)
    lines = [f"{key:<12} {value}" for key, value in rows.items()]
    return "\n".join([*lines, f"ok: ready for {purpose}"])

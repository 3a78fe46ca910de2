"""``grpo-host rollout``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from grpo_host.checks.load import load_checked
from grpo_host.cli.command import PATH, Command, agent_yaml, overrides, recordings, with_plugins

if TYPE_CHECKING:
    from grpo_host.plugins import Registry


@click.command(
    "rollout",
    cls=Command,
    examples=[
        "grpo-host rollout agent.yaml --episodes 16 --out trajectories.jsonl",
        "grpo-host rollout agent.yaml --split held_out --samples 4",
    ],
)
@agent_yaml
@overrides
@click.option("--episodes", type=click.IntRange(1), default=8, show_default=True, help="In all.")
@click.option("--split", default="train", show_default=True, help="Which tasks to play.")
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Episodes a task.")
@click.option("--out", type=PATH, metavar="FILE", help="Write here instead of to stdout.")
@recordings
@with_plugins
def command(
    agent_yaml: Path,
    overrides: tuple[str, ...],
    episodes: int,
    split: str,
    samples: int,
    out: Path | None,
    record: bool,
    replay: str | None,
    registry: Registry,
) -> int:
    """Play episodes without training and write their trajectories, one JSON object a line."""
    if record and out is None:
        raise click.UsageError("--record needs --out: the answers are kept beside that file.")
    loaded = load_checked(agent_yaml, overrides, registry, "rollout", replay=replay)

    from grpo_host.runs.rollout import run_rollout
    from grpo_host.utils.quiet import quiet_libraries

    quiet_libraries()
    return run_rollout(loaded, episodes=episodes, split=split, samples=samples, out=out, record=record)

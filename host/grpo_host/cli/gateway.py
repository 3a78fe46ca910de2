"""``grpo-host gateway``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from grpo_host.checks.load import load_checked
from grpo_host.cli.command import PATH, Command, agent_yaml, overrides, with_plugins

if TYPE_CHECKING:
    from grpo_host.plugins import Registry


@click.command(
    "gateway",
    cls=Command,
    examples=[
        "grpo-host gateway agent.yaml --out tried.jsonl",
        "grpo-host gateway agent.yaml --keys 4 --out tried.jsonl",
    ],
)
@agent_yaml
@overrides
@click.option("--keys", type=click.IntRange(1, 1000), default=1, show_default=True, help="One an episode.")
@click.option("--out", type=PATH, metavar="FILE", default="gateway.jsonl", show_default=True)
@with_plugins
def command(agent_yaml: Path, overrides: tuple[str, ...], keys: int, out: Path, registry: Registry) -> int:
    """Let an app in another process call the policy at OPENAI_BASE_URL, and write what would be trained.

    To train such an app, name its program: agent: {runnable: {command: [node, shop.mjs]}}.
    """
    loaded = load_checked(agent_yaml, overrides, registry, "rollout")

    from grpo_host.runs.gateway import run_gateway
    from grpo_host.utils.quiet import quiet_libraries

    quiet_libraries()
    return run_gateway(loaded, keys=keys, out=out)

"""``grpo-host score``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grpo_host.cli.command import PATH, Command, with_plugins

if TYPE_CHECKING:
    from grpo_host.plugins import Registry


@click.command(
    "score",
    cls=Command,
    examples=[
        "grpo-host score trajectories.jsonl --rewards agent.yaml",
        "grpo-host score trajectories.jsonl --rewards ./my.py:exact",
        "grpo-host score runs/shop/20260801-101500-ab12 --rewards new-rewards.yaml --out scored.jsonl",
    ],
)
@click.argument("trajectories", type=PATH)
@click.option(
    "--rewards",
    type=PATH,
    required=True,
    metavar="FILE",
    help="A YAML file with rewards:, such as an agent.yaml; or one reward of a file, ./my.py:exact.",
)
@click.option("--out", type=PATH, metavar="FILE", help="Write the trajectories with their new scores here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_plugins
def command(trajectories: Path, rewards: Path, out: Path | None, as_json: bool, registry: Registry) -> int:
    """Score trajectories that were played before with other rewards, and compare.

    TRAJECTORIES is a JSONL file or the directory of a run. Nothing is generated.
    """
    from grpo_host.config.load import load_rewards
    from grpo_host.config.resolve import resolve
    from grpo_host.runs.score import mean, run_score

    loaded = resolve(load_rewards(rewards, registry), registry)
    scores, counts = run_score(loaded, trajectories, out=out)
    rows = {
        name: {"before": mean(found.before), "now": mean(found.now), "change": mean(found.changed)}
        for name, found in scores.items()
    }
    if as_json:
        click.echo(json.dumps({"rewards": rows, **counts}, indent=2))
    else:
        _print(rows)
        click.echo(
            f"{counts['trajectories']} trajectories, {counts['failed']} failed episodes, which are not scored"
        )
        if counts["unscored"]:
            click.echo(f"{counts['unscored']} have no score; what failed most: {counts['failure']}")
    return int(counts["unscored"] == counts["trajectories"] - counts["failed"])


def _print(rows: dict[str, dict[str, float | None]]) -> None:
    from grpo_host.cli.table import print_table

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    columns = ("reward", "mean before", "mean now", "mean change, up or down")
    print_table(columns, [(name, *map(text, row.values())) for name, row in rows.items()])

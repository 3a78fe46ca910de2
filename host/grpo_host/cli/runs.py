"""``grpo-host runs``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grpo_host.cli.command import PATH, Command, Group
from grpo_host.cli.export import RUNS
from grpo_sdk.errors import RunError

if TYPE_CHECKING:
    from grpo_host.runs.run import Run


@click.group(
    "runs",
    cls=Group,
    invoke_without_command=True,
    examples=[
        "grpo-host runs",
        "grpo-host runs --in other/runs",
        "grpo-host runs delete 20261122-101500-ab12",
    ],
)
@click.option("--in", "place", type=PATH, default=Path(RUNS), metavar="DIR", help=f"Where they lie [{RUNS}].")
@click.pass_context
def command(ctx: click.Context, place: Path) -> None:
    """List runs: state, steps, held-out reward before and after, size on disk; delete them."""
    from grpo_host.runs.run import find_runs

    ctx.obj = place
    if ctx.invoked_subcommand is None:
        found = find_runs(place)
        if not found:
            click.echo(f"no runs in {place.absolute()}", err=True)
            return
        _print(found)


@command.command("delete", cls=Command, examples=["grpo-host runs delete 20261122-101500-ab12 --yes"])
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(place: Path, runs: tuple[str, ...], yes: bool) -> None:
    """Delete runs, by id or directory, with their checkpoints, adapter and trajectories."""
    from grpo_host.runs.run import named_run

    chosen = [named_run(which, place) for which in runs]
    for run in chosen:
        if run.state == "running":
            raise RunError(f"{run.path} is running: end it first (Ctrl-C where it was started)")
        needed = "".join(f"; {other} names it in its agent.yaml" for other in _named_by(run, place))
        asked = f"delete {run.path} ({run.state}, {_size(run.size_bytes())}{needed})?"
        if not yes and not click.confirm(asked, err=True):
            continue
        run.directory.acquire()  # raises if it is in use
        try:
            shutil.rmtree(run.path)
        finally:
            run.directory.release()
        click.echo(f"deleted {run.path}", err=True)


def _named_by(run: Run, place: Path) -> list[str]:
    """The runs that begin with the weights of ``run``, or read another of its files."""
    from grpo_host.runs.run import find_runs

    return [
        other.path.name
        for other in find_runs(place)
        if other.path != run.path and run.path.name in other.directory.agent_yaml.read_text()
    ]


def _print(runs: list[Run]) -> None:
    from grpo_host.cli.table import print_table
    from grpo_host.utils.chart import sparkline

    rows = []
    for run in runs:
        lines = run.metric_lines()
        rewards = [line["reward"] for line in lines if line.get("reward") is not None]
        steps = "" if run.is_evaluation else f"{lines[-1]['step'] if lines else 0}/{run.planned_steps}"
        rows.append(
            [
                run.path.name,
                run.name + (" (eval)" if run.is_evaluation else ""),
                run.state,
                steps,
                sparkline(rewards[-12:]),
                _gain(run),
                _size(run.size_bytes()),
            ]
        )
    print_table(["run", "agent", "state", "steps", "reward", "held out", "size"], rows)


def _gain(run: Run) -> str:
    """Before, after the warm start (what imitation alone gave: the control) and after, with intervals."""
    measured = {item["label"]: item for item in run.evaluations()}
    said = []
    for label in ("before", "warm_start", "after", "evaluation"):
        item = measured.get(label)
        if item is not None and item["reward"] is not None:
            said.append(f"{item['reward']:.2f} [{item['low']:.2f}, {item['high']:.2f}]")
    return " → ".join(said)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

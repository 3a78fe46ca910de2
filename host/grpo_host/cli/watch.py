"""``grpo-host watch``."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import click

from grpo_host.cli.command import Command
from grpo_host.cli.export import RUNS

SECONDS = 1.0
"""Between two looks."""


@click.command(
    "watch",
    cls=Command,
    examples=["grpo-host watch", "grpo-host watch 20261122-101500-ab12 --once"],
)
@click.argument("run", default="latest", required=False, metavar="[RUN]")
@click.option("--once", is_flag=True, help="Print how it stands now, and end.")
def command(run: str, once: bool) -> None:
    """Watch a run in the terminal: reward, held-out measurements, speed, and what goes wrong.

    RUN is a run's directory, its id in ./runs, or latest. Ends when the run does; Ctrl-C leaves it alone.
    If output is no terminal, one line a step is printed.
    """
    from grpo_host.runs.run import named_run
    from grpo_host.runs.summary import summary

    found = named_run(run, Path(RUNS))
    width = shutil.get_terminal_size().columns
    shown = summary(found, width)
    if once or found.state != "running":
        click.echo("\n".join(shown))
        return
    if not sys.stdout.isatty():
        step = None
        while found.state == "running":
            lines = found.metric_lines()
            if lines and lines[-1]["step"] != step:
                step = lines[-1]["step"]
                click.echo("\n".join([*summary(found, width), ""]))
            time.sleep(SECONDS)
        click.echo("\n".join(summary(found, width)))
        return
    from rich.live import Live
    from rich.text import Text

    with Live(Text("\n".join(shown)), auto_refresh=False) as live:
        while found.state == "running":
            time.sleep(SECONDS)
            width = shutil.get_terminal_size().columns
            live.update(Text("\n".join(summary(found, width))), refresh=True)

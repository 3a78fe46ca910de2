"""``grpo-host report``."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from grpo_host.cli.command import PATH, Command
from grpo_host.cli.export import RUNS


@click.command(
    "report",
    cls=Command,
    examples=["grpo-host report latest", "grpo-host report latest --html report.html"],
)
@click.argument("run", default="latest", required=False, metavar="[RUN]")
@click.option("--html", type=PATH, metavar="FILE", help="Write one self-contained page to share.")
def command(run: str, html: Path | None) -> None:
    """Tell what a run has come to: curves, before and after, what went wrong, settings.

    RUN is a run's directory, its id in ./runs, or latest. The page of --html needs no network and runs no
    script; what a model wrote is text in it.
    """
    from grpo_host.runs.run import named_run

    found = named_run(run, Path(RUNS))
    if html is None:
        from grpo_host.runs.summary import summary

        click.echo("\n".join(summary(found, shutil.get_terminal_size().columns)))
        return
    from grpo_host.runs.playing import cannot_write
    from grpo_host.utils.atomic import write_text
    from grpo_host.viewer.page import report_page

    try:
        write_text(html, report_page(found))
    except OSError as problem:
        raise cannot_write(html, problem) from problem
    click.echo(html)

"""``grpo-host view``."""

from __future__ import annotations

from pathlib import Path

import click

from grpo_host.cli.command import PATH, Command
from grpo_host.cli.export import RUNS


@click.command(
    "view",
    cls=Command,
    examples=[
        "grpo-host view",
        "grpo-host view runs/support-desk/20261122-101500-ab12",
        "grpo-host view runs other/runs --port 8002 --open",
    ],
)
@click.argument("places", nargs=-1, type=PATH, metavar="[DIR...]")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="[a free one]")
@click.option("--open", "open_browser", is_flag=True, help="Open it in the browser.")
def command(places: tuple[Path, ...], port: int, open_browser: bool) -> None:
    """Look at runs in a browser: curves, what went wrong, every conversation down to its tokens.

    DIR is a run or holds runs [runs]. Only this machine can reach it, and only with the token in the address
    that is printed. A run's trajectories are indexed beside it, once. Ctrl-C ends it.
    """
    from grpo_host.viewer.server import view
    from grpo_sdk.errors import RunError

    chosen = places or (Path(RUNS),)
    for place in chosen:
        if not place.is_dir():
            raise RunError(f"there is no directory {place}; name one that holds runs")
    view(chosen, port=port, open_browser=open_browser, say=lambda address: click.echo(address))

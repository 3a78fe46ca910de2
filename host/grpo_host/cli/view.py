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
@click.option(
    "--trace-url",
    envvar="GRPO_TRACE_URL",
    metavar="URL",
    help="Where a trajectory's trace can be looked at: https://jaeger.example.org/trace/{trace_id}.",
)
def command(places: tuple[Path, ...], port: int, open_browser: bool, trace_url: str | None) -> None:
    """Look at runs in a browser: curves, what went wrong, every conversation down to its tokens.

    DIR is a run or holds runs [runs]. Only this machine can reach it, and only with the token in the address
    that is printed. A run's trajectories are indexed beside it, once. Ctrl-C ends it.
    """
    import re

    from grpo_host.config.schema import TRACE_URL
    from grpo_host.viewer.server import view
    from grpo_sdk.errors import RunError

    if trace_url is not None and not re.search(TRACE_URL, trace_url):
        raise click.BadParameter(
            f'"{trace_url}" is no http(s) address with {{trace_id}} in it', param_hint="--trace-url"
        )
    chosen = places or (Path(RUNS),)
    for place in chosen:
        if not place.is_dir():
            raise RunError(f"there is no directory {place}; name one that holds runs")
    view(
        chosen,
        port=port,
        open_browser=open_browser,
        say=lambda address: click.echo(address),
        trace_url=trace_url,
    )

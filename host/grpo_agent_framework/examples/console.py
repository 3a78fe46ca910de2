"""What the examples share: their options, and how talk, scores and figures are shown."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo_host.utils.quiet import quiet_libraries
from grpo_sdk.errors import GrpoError
from grpo_sdk.rewards import RewardResult

MODEL = "smollm2-135m"
# What a model says must not be read as markup.
console = Console(highlight=False, markup=False, emoji=False)


def run(
    main: Callable[[argparse.Namespace], Coroutine[Any, Any, None]],
    description: str | None,
    *,
    max_tokens: int = 60,
    add_options: Callable[[argparse.ArgumentParser], object] = lambda _: None,
) -> None:
    """Read the command line and run ``main`` with it; an expected failure ends it with status 2."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL, help="an alias, hub id or directory (default: %(default)s)")
    parser.add_argument(
        "--run", help="a run of examples/order_desk to speak with (default: the latest below runs/order-desk)"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=max_tokens, help="of one answer (default: %(default)s)"
    )
    add_options(parser)
    options = parser.parse_args()
    quiet_libraries()
    started = time.perf_counter()
    try:
        asyncio.run(main(options))
    except GrpoError as problem:
        console.print(f"error: {problem}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    console.print(f"\nDone in {time.perf_counter() - started:.0f} s.", style="dim")


def heading(text: str) -> None:
    """The title of a part."""
    console.print()
    console.rule(Text(text, style="bold"), align="left")


def said(who: str, text: str, *, end: str = "\n") -> None:
    """What somebody said."""
    colour = "bold cyan" if who.startswith("Customer") else "bold green"
    console.print(Text.assemble((f"{who}: ", colour), text), end=end)


def piece(text: str) -> None:
    """A part of what somebody says, as it comes."""
    console.out(text, end="")


def ask() -> str:
    """What the person at the keyboard says; empty at the end of the input."""
    try:
        return console.input("Customer: ").strip()
    except EOFError:
        return ""


def note(text: str) -> None:
    """What happens, or why."""
    console.print(text, style="dim")


@contextmanager
def timed(what: str) -> Iterator[Callable[[], float]]:
    """Say how long ``what`` took; gives the seconds so far."""
    started = time.perf_counter()
    yield lambda: time.perf_counter() - started
    note(f"({what}: {time.perf_counter() - started:.1f} s)")


def table(title: str, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """A table; numbers with three digits behind the point."""
    made = Table(*columns, show_header=any(columns))
    for row in rows:
        made.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(Text(title, style="italic"))
    console.print(made)


def score(title: str, result: RewardResult) -> None:
    """A reward's value, its parts, and its reasons."""
    table(f"{title}: {result.value:.3f}", ("part", "value"), result.parts.items())
    if result.explanation:
        note(result.explanation)


def figures(title: str, values: Mapping[str, object]) -> None:
    """Names and what they stand for."""
    table(title, ("", ""), values.items())


def metrics(snapshot: Mapping[str, Any]) -> None:
    """What ``MonitoringService.get_metrics`` gives."""
    columns = ("count", "last", "mean", "p50", "p95")
    rows = [(name, *(told[key] for key in columns)) for name, told in snapshot["metrics"].items()]
    table("metrics", ("", *columns), rows)
    figures("events", snapshot["events"])

"""Tables for people."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

NARROW = 9
"""In a terminal with fewer characters than this a column, each row is a block of lines."""


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, marked: Collection[int] = ()
) -> None:
    """Print ``rows`` under ``columns``; the rows numbered in ``marked`` are red."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if sys.stdout is None:
        return
    console = Console()
    if not sys.stdout.isatty():  # in a pipe or a file nothing need be wrapped or cut
        longest = max(len(line) for row in rows for cell in row for line in cell.splitlines() or [""])
        console = Console(width=max(80, longest * 2 + 120))
    if console.width < NARROW * len(columns):
        for index, (first, *cells) in enumerate(rows):
            said = [f"  {name}: {cell}" for name, cell in zip(columns[1:], cells, strict=True) if cell]
            console.print(Text("\n".join([first, *said]), style="red" if index in marked else ""))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for index, row in enumerate(rows):
        # Text, since a cell may hold what rich takes for markup.
        table.add_row(*map(Text, row), style="red" if index in marked else None)
    console.print(table)

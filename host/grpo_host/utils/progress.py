"""Show the progress of long work: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS = 15.0
"""Seconds between the lines of a phase's progress without a terminal."""

Advance = Callable[[], None]


class Lasting:
    """A file that may close: what can no longer be written is dropped, and the work continues.

    A closed terminal first sends SIGHUP, on which a run saves a checkpoint and says so.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.problem: OSError | None = None
        """The first."""

    def write(self, text: str) -> int:
        try:
            self._file.write(text)
        except OSError as problem:
            self.problem = self.problem or problem
        return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as problem:
            self.problem = self.problem or problem

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def nowhere() -> IO[str]:
    """A file that replaces a standard stream that was closed before the process began."""
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123


class Reporter:
    """Prints lines, and shows phases of work with their progress."""

    def __init__(self, file: IO[str] | None = None, *, quiet: bool = False) -> None:
        file = file or sys.stdout or nowhere()
        # Not rich's is_terminal, which FORCE_COLOR and its like make true of a log as well.
        self._redraws = file.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self.console = Console(
            file=cast("IO[str]", Lasting(file)),
            highlight=False,
            markup=False,
            emoji=False,
            quiet=quiet,
            soft_wrap=True,
        )
        self._bars: Progress | None = None

    def line(self, text: str) -> None:
        """One line for the record."""
        (self._bars.console if self._bars else self.console).print(text)

    @contextmanager
    def phase(self, label: str, total: int | None = None, *, silent: bool = False) -> Iterator[Advance]:
        """Show ``label`` while the block runs; the block calls the yielded function per unit done.

        ``silent``: nothing without a terminal, if the block's own lines say enough.
        """
        if self._redraws:
            with self._bar(label, total) as advance:
                yield advance
        else:
            yield (lambda: None) if silent else self._plain(label, total)

    @contextmanager
    def _bar(self, label: str, total: int | None) -> Iterator[Advance]:
        outermost = self._bars is None
        if self._bars is None:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bars.start()
        bars = self._bars
        task = bars.add_task(label, total=total)
        try:
            yield lambda: bars.advance(task)
        finally:
            bars.remove_task(task)
            if outermost:
                bars.stop()
                self._bars = None

    def _plain(self, label: str, total: int | None) -> Advance:
        done, last = 0, time.monotonic()

        def advance() -> None:
            nonlocal done, last
            done += 1
            if time.monotonic() - last >= PLAIN_SECONDS:
                last = time.monotonic()
                self.line(f"{label}: {done}" + (f" of {total}" if total else ""))

        return advance

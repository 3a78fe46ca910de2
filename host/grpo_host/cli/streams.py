"""Handle standard streams in another encoding, closed, full, or connected to a pipe that nobody reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any, cast

from grpo_host.utils.progress import Lasting


@contextmanager
def lasting_streams() -> Iterator[Lasting | None]:
    """Make printing within the block never fail; yield standard output, which remembers a problem.

    The work of a command must not be lost because it could not print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would take its place, and what is printed
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    output = _lasting(sys.stdout)
    sys.stdout, sys.stderr = cast("Any", output), cast("Any", _lasting(sys.stderr))
    try:
        yield output
        if output is not None:
            output.flush()
    finally:
        sys.stdout, sys.stderr = before


def _lasting(stream: Any) -> Lasting | None:
    if isinstance(stream, TextIOWrapper):
        is_utf8 = stream.encoding.lower().replace("-", "") == "utf8"
        if stream.errors == "strict" or not is_utf8:
            stream.reconfigure(errors="backslashreplace")
    return None if stream is None else Lasting(stream)


def give_up_output() -> None:
    """Drop what could not be written: otherwise Python complains again when it flushes at exit."""
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

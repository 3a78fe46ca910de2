"""Standard streams as machines have them: in another encoding, closed, full, or a pipe that nobody reads."""

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
    """Within the block nothing that is printed fails; standard output is yielded, and may tell of a problem.

    What a command does is not to be lost because of what it says.
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
    """Lose what could not be written: Python would complain of it once more when it flushes at exit."""
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

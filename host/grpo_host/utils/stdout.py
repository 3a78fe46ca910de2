"""Standard output is the host's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def plugins_print_to_stderr() -> Iterator[None]:
    """Meanwhile, what plugins print goes to standard error: standard output holds what the command gives.

    A ``Reporter`` that was made before goes on writing where it did.
    """
    if sys.stderr is None:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield

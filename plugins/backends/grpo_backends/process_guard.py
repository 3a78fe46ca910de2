"""``python process_guard.py COMMAND…``: run a command that ends, with all it starts, when its parent does.

The parent holds the other end of standard input. It is closed however the parent ends, by kill -9 too; then
the command's process group is asked to stop, and killed if it has not within ``STOP_SECONDS``.
A server that starts processes of its own cannot be trusted to end them: its engine outlives a kill -9 of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

STOP_SECONDS = 10.0


def main(command: Sequence[str]) -> int:
    """The exit code of ``command``: 128 + the number of the signal that ended it."""
    for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(caught, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent decides when to end
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    threading.Thread(target=_end_with_parent, args=(child,), daemon=True).start()
    code = child.wait()
    _signal(child, signal.SIGKILL)  # what it has left behind
    return code if code >= 0 else 128 - code


def _end_with_parent(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    _signal(child, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(STOP_SECONDS)
    _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

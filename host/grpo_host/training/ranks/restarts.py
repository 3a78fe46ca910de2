"""What ranks that torch elastic starts again know of those before them.

The launcher keeps a folder for them. In it stand the run's directory, with which they go on, and the exit
code of a rank that has said itself why it ended: whoever is started after that ends the same way, since
trying again what a user has to mend would only repeat the error.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_host.utils.atomic import write_text

FOLDER = "GRPO_RANKS_FOLDER"
"""Names the launcher's folder to the ranks."""
_COUNT = "TORCHELASTIC_RESTART_COUNT"
_RUN, _CODE = "run", "exit-code"


@contextmanager
def remembered_launch() -> Iterator[None]:
    """Make a folder in which the ranks that are started meanwhile leave notes."""
    with tempfile.TemporaryDirectory(prefix="grpo-ranks-") as folder:
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER]


def remember_run(path: Path) -> None:
    """Let ranks that are started after this one go on with the run at ``path``."""
    _write(_RUN, str(path.resolve()))


def remember_exit(code: int) -> None:
    """Let ranks that are started after this one end with ``code`` too."""
    _write(_CODE, str(code))


def main_has_ended(seconds: float = 10.0) -> bool:
    """Wait until rank 0 on this machine has said why it ends: a rank that ends first ends it too.

    False: it goes on, so this rank's problem is its own. Under a torchrun of the user's nobody can know, and
    it is taken to have ended.
    """
    folder = os.environ.get(FOLDER)
    until = time.monotonic() + seconds
    while folder and _read(_CODE) is None:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def run_to_go_on_with() -> str | None:
    """The run of the ranks before; under a torchrun of the user's, the latest one. None: begin one."""
    if not _again():
        return None
    return _read(_RUN) if FOLDER in os.environ else "latest"


def exit_at_once() -> int | None:
    """The exit code of the ranks before, if one has said why it ended."""
    code = _read(_CODE) if _again() else None
    return None if code is None else int(code)


def _again() -> bool:
    return int(os.environ.get(_COUNT, "0")) > 0


def _write(name: str, text: str) -> None:
    folder = os.environ.get(FOLDER)
    if folder and os.environ.get("LOCAL_RANK", "0") == "0":
        write_text(Path(folder) / name, text)


def _read(name: str) -> str | None:
    folder = os.environ.get(FOLDER)
    try:
        return (Path(folder) / name).read_text(encoding="utf-8") if folder else None
    except FileNotFoundError:
        return None

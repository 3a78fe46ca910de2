"""Write files and directories completely or not at all."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Of Linux's renameat2."""


def write_text(path: Path, text: str) -> None:
    """Write ``path`` completely or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def sync_directory(path: Path) -> None:
    """Return when all that is in ``path`` is on the disk."""
    for entry in [*path.rglob("*"), path]:
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_directory(path: Path, new: Path) -> None:
    """Put the directory ``new`` in the place of ``path``, on the same disk.

    A reader sees the old directory or the new one, also after a crash. On a file system that cannot
    exchange two names (NFS), ``path`` is missing for a moment; the old directory is then beside it.
    """
    if not path.exists():
        new.replace(path)
        return
    try:
        _exchange(path, new)
        old = new
    except OSError:
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        path.replace(old)
        new.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Swap two names atomically, which no function of Python does. Raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        rename = libc.renameat2
    except AttributeError as problem:  # a system without it
        raise OSError(str(problem)) from problem
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "cannot exchange two names", str(one))


@contextmanager
def replaced_when_done(path: Path) -> Iterator[Path]:
    """A temporary directory that becomes ``path`` if all goes well; one process at a time."""
    prefix = f".{path.name}.tmp-"
    for left_over in path.parent.glob(f"{prefix}*"):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        replace_directory(path, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def append_whole(path: Path, data: bytes) -> int:
    """Append ``data`` to the file: all of it, or nothing if the disk refuses. Gives the file's size.

    What stays of half a line would spoil the next one too.
    """
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            left = data
            while left:
                left = left[file.write(left) :]
        except OSError:
            with suppress(OSError):
                file.truncate(size)
            raise
        return size + len(data)

"""Paths as a user writes them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from grpo_sdk.errors import ConfigError


def expanded(path: str | Path) -> Path:
    """``path`` with the home directory in place of ``~``. Raises ``ConfigError`` if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: nobody knows the home directory that ~ stands for. Set HOME, or write the whole path"
        ) from None


def ensure_home() -> None:
    """Give a user without a home directory one for caches: libraries raise, or write to ``./~``.

    Such a user has neither HOME nor an entry in the system's list of users, as in a container that
    runs with a numeric user id.
    """
    try:
        Path.home()
    except RuntimeError:
        user = str(os.getuid())
        directory = Path(tempfile.gettempdir(), f"grpo-home-{user}")
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            own = directory.lstat().st_uid == os.getuid() and not directory.is_symlink()
        except OSError:
            own = False
        if not own:  # another user has made it first
            directory = Path(tempfile.mkdtemp(prefix=f"grpo-home-{user}-"))
        os.environ["HOME"] = str(directory)
        os.environ.setdefault("USER", user)  # torch asks who it is, for a name of its cache

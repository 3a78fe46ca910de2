"""Paths as a user writes them."""

from __future__ import annotations

from pathlib import Path

from grpo_sdk.errors import ConfigError


def expanded(path: str | Path) -> Path:
    """``path`` with the home directory in place of ``~``. Raises ``ConfigError`` where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: nobody knows the home directory that ~ stands for. Set HOME, or write the whole path"
        ) from None

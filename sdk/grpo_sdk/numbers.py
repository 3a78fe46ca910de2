"""Numbers that a caller gives: text, as an environment variable holds it, is refused where it is given."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from grpo_sdk.errors import ConfigError


def plain(value: Any) -> Any:
    """``value`` with Python's numbers and lists in place of numpy's and torch's, which JSON does not know."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def check_number(what: str, value: object, kind: type[int] | type[float]) -> None:
    """Raise ``ConfigError`` that names ``what`` unless ``value`` is a number of ``kind``.

    A whole number is a float too; ``True`` and ``False`` are no numbers.
    """
    if type(value) is kind:
        return
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        name = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{what} must be {name}, not {value!r:.40}")

"""Numbers that a caller gives: text, as an environment variable holds it, is refused where it is given."""

from __future__ import annotations

from numbers import Integral, Real

from grpo_sdk.errors import ConfigError


def check_number(what: str, value: object, kind: type[int] | type[float]) -> None:
    """Raise ``ConfigError`` that names ``what`` unless ``value`` is a number of ``kind``.

    A whole number is a float too; ``True`` and ``False`` are no numbers.
    """
    if type(value) is kind:
        return
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        name = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{what} must be {name}, not {value!r:.40}")

"""How agent.yaml names something in a file: ``./my.py:exact``."""

from __future__ import annotations

import re

_REFERENCE = re.compile(r"(.+\.py):([^\W\d]\w*)")


def file_reference(name: str) -> tuple[str, str] | None:
    """The file and the name in it that ``name`` means; None if it is the name of what a plugin offers."""
    found = _REFERENCE.fullmatch(name)
    return (found[1], found[2]) if found else None

"""Change what was checked once: for what is made anew in each turn."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def altered(item: T, **changes: Any) -> T:
    """``item``, of a dataclass, with ``changes``: as ``dataclasses.replace`` at a third of its cost.

    Neither ``__init__`` nor ``__post_init__`` runs: ``changes`` are not checked.
    """
    made = object.__new__(type(item))
    for name in item.__dataclass_fields__:  # type: ignore[attr-defined]
        object.__setattr__(made, name, changes[name] if name in changes else getattr(item, name))
    return made

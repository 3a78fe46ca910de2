"""What ``grpo-host doctor`` finds: a subject, how it stands, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    """``warning``: something cannot be used, or will be slow; ``error``: something is broken."""
    subject: str
    says: str
    todo: str = ""
    """What to do; empty if all is well."""

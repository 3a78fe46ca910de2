"""For which episode something is asked: of a model, by whoever plays or scores it."""

from __future__ import annotations

from contextvars import ContextVar

ASKING_FOR: ContextVar[str] = ContextVar("grpo_asking_for", default="")
"""Id of the episode that is played or scored in this context, of a group's first; empty: of none."""

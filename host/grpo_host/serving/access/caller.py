"""Who calls, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What a key may do."""

    CHAT = "chat"
    """Talk to agents, and see one's own conversations."""
    TRAIN = "train"
    """Start, watch and cancel training jobs."""
    ADMIN = "admin"
    """See what concerns the whole server, such as its metrics."""


@dataclass(frozen=True, slots=True)
class Key:
    """Who calls."""

    id: str
    name: str
    scopes: frozenset[Scope]
    owner: str
    """The person or team whose key it is: conversations and jobs are theirs, whichever of their keys made
    them."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


NOBODY = Key("", "", frozenset(), "")
"""Whoever calls a public endpoint."""
ANONYMOUS = Key("anonymous", "anonymous", frozenset(Scope), "anonymous")
"""Whoever calls over loopback a server that has no keys."""

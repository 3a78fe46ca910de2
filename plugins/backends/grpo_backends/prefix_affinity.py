"""Choose a replica: the one that holds an episode's beginning, unless others have far less to do."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

BLOCK = 8
"""Ids. An answer shorter than this may not be found again."""
_MOST = 1 << 17
"""Blocks remembered: some 10 MB."""
_SLACK = 4
"""Requests that a replica may have more than the idlest one before an episode leaves it."""


class Loaded(Protocol):
    """What has requests under way."""

    load: int


R = TypeVar("R", bound=Loaded)


class PrefixAffinity:
    """Remembers which replica has sampled which ids.

    Only blocks with sampled ids in them count: the episodes of a group begin alike, and are to be spread.
    """

    def __init__(self) -> None:
        self._holders: OrderedDict[int, object] = OrderedDict()
        self._turn = 0

    def choose(self, prompt: Sequence[int], replicas: Sequence[R]) -> R:
        """One of ``replicas``, of which there is at least one."""
        least = min(replica.load for replica in replicas)
        held = self._holder(prompt) if len(replicas) > 1 else None
        for replica in replicas:
            if replica is held and replica.load <= 2 * least + _SLACK:
                return replica
        self._turn += 1
        idle = [replica for replica in replicas if replica.load == least]
        return idle[self._turn % len(idle)]

    def remember(self, prompt: Sequence[int], sampled: Sequence[int], replica: object) -> None:
        """``replica`` holds ``prompt`` and what it ``sampled`` behind it."""
        ids = [*prompt, *sampled]
        for end, key in _blocks(ids):
            if end > len(prompt):
                self._holders[key] = replica
                self._holders.move_to_end(key)
        while len(self._holders) > _MOST:
            self._holders.popitem(last=False)

    def _holder(self, prompt: Sequence[int]) -> object | None:
        found = None
        for _, key in _blocks(prompt):
            found = self._holders.get(key, found)
        return found


def _blocks(ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The end of each whole block, and a number for all that is before it."""
    data = array("I", ids).tobytes()
    key, size = 0, BLOCK * array("I").itemsize
    for block in range(len(ids) // BLOCK):
        key = hash((key, data[block * size : (block + 1) * size]))
        yield (block + 1) * BLOCK, key

"""The garbage collector, kept from stopping everything at once for long."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_users = 0
"""How many are inside: the collector is the process's."""
_before = gc.get_threshold()


@contextmanager
def short_collections() -> Iterator[None]:
    """Meanwhile the collector looks less often, and hardly ever at what is older.

    A full collection stops every episode or request while it walks the heap: 70 ms with the host's
    modules, several times that with torch and an engine. Trajectories and answers hold no cycles;
    counting references frees nearly all that they leave. Nothing is frozen: that sets the collector's
    counts back, and between short batches it would never come to what plugins leave.
    """
    global _users, _before
    with _lock:
        _users += 1
        if _users == 1:
            _before = gc.get_threshold()
            gc.set_threshold(20_000, 100, _before[2])
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                gc.set_threshold(*_before)

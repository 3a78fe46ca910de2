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
    """Meanwhile the collector leaves what is older alone, and looks at the rest less often.

    A full collection stops every episode or request while it walks the heap: 70 ms with the host's
    modules, several times that with torch and an engine. Trajectories and answers hold no cycles;
    counting references frees nearly all that they leave.
    """
    global _users, _before
    with _lock:
        _users += 1
        if _users == 1:
            _before = gc.get_threshold()
            gc.freeze()
            gc.set_threshold(20_000, 100, _before[2])
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                gc.set_threshold(*_before)
                gc.unfreeze()

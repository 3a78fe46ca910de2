"""Who may work when only one may."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """``with turns``: one thread at a time, in the order in which they came.

    A plain lock goes again and again to the thread that has just let go of it.
    """

    def __init__(self) -> None:
        self._waiting: deque[threading.Lock] = deque()
        self._guard = threading.Lock()
        self._taken = False

    def __enter__(self) -> None:
        mine = threading.Lock()
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

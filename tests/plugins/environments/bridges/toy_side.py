"""A library that is bridged, for tests of the bridge: it remembers, prints, hangs and dies."""

from __future__ import annotations

import os
import time
from typing import Any


class Side:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, number: int) -> int:
        self.count += number
        return self.count

    async def later(self, number: int) -> int:
        return number

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def burn(self) -> int:
        return len(str(9**9**9))  # never returns to the interpreter

    def fail(self) -> None:
        raise KeyError("nothing there")

    def die(self) -> None:
        print("out of memory, or so", flush=True)
        os._exit(3)

    def parent(self) -> int:
        return os.getppid()

    def end_all(self) -> None:
        os.kill(os.getppid(), 9)

    def tasks(self) -> list[Any]:
        return []

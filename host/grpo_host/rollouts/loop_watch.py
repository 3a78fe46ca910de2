"""Notices what blocks the event loop of the episodes: names the line, and takes the time off nobody else.

A plugin's coroutine that computes, sleeps or asks a server without ``await`` stops every episode. Without
this the model or a neighbour would be blamed, whose time limit ran out meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from grpo_host.plugins.failures import plugin_frame
from grpo_sdk import toolbox
from grpo_sdk.blocking import call_blocking
from grpo_sdk.deadline import count_blocked

logger = logging.getLogger("grpo_host.plugins")

BLOCKED_SECONDS = 0.1
"""So long may the loop stand before it counts as blocked."""
PAUSE_SECONDS = 0.05
"""Between two looks."""
LOOKS = 20_000
"""That are kept: those of a quarter of an hour."""

_ROLLOUTS = f"{Path(__file__).parent}/"
_HOST = f"{Path(__file__).parent.parent}/"
_lock = threading.Lock()


class LoopWatch:
    """``with LoopWatch():`` in the loop that is to be watched, also by several at once.

    One loop at a time is watched: in another one it does nothing.
    """

    def __init__(self) -> None:
        self._watcher: _Watcher | None = None
        self._began = 0.0

    def __enter__(self) -> LoopWatch:
        global _watcher
        with _lock:
            loop = asyncio.get_running_loop()
            if _watcher is None:
                _watcher = _Watcher(loop)
            if _watcher.loop is loop:
                self._watcher = _watcher
                self._began = time.perf_counter()
                _watcher.users += 1
        return self

    def __exit__(self, *_: object) -> None:
        global _watcher
        if self._watcher is None:
            return
        with _lock:
            self._watcher.users -= 1
            if not self._watcher.users:
                self._watcher.end()
                _watcher = None

    @property
    def lag_p99(self) -> float | None:
        """How many seconds late the loop came to what was due, at the worst but 1 % of the looks."""
        looks = list(self._watcher.looks) if self._watcher else []
        lags = sorted(lag for asked, lag in looks if asked >= self._began)
        return lags[math.ceil(0.99 * len(lags)) - 1] if lags else None


class _Watcher:
    """A thread that looks at a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.users = 0
        self.looks: deque[tuple[float, float]] = deque(maxlen=LOOKS)
        """When, and how many seconds late it was."""
        self._total = 0.0
        self._own: WeakKeyDictionary[asyncio.Task[Any], float] = WeakKeyDictionary()
        self._named: set[str] = set()
        self._over = threading.Event()
        self._turner = threading.get_ident()
        self._clock = ThreadClock.of_this_thread()
        count_blocked(self._blocked_by_others)
        threading.Thread(target=self._watch, name="grpo-loop-watch", daemon=True).start()

    def end(self) -> None:
        count_blocked(None)
        self._over.set()

    def _blocked_by_others(self, task: asyncio.Task[Any]) -> float:
        return self._total and self._total - self._own.get(task, 0.0)

    def _watch(self) -> None:
        while not self._over.is_set():
            turned = threading.Event()
            asked = time.perf_counter()
            self._clock.restart()
            try:
                self.loop.call_soon_threadsafe(self._turned, turned, asked)
            except RuntimeError:
                return  # the loop is closed
            # Mostly it has turned by the end of the pause: then nobody has to wake this thread, for which
            # the loop's own would be stopped.
            self._over.wait(PAUSE_SECONDS)
            if turned.is_set() or turned.wait(BLOCKED_SECONDS - PAUSE_SECONDS):
                continue
            task = asyncio.current_task(self.loop)
            blocked = self._clock.busy()
            while not self._over.is_set():
                if blocked >= BLOCKED_SECONDS and self._name(
                    sys._current_frames().get(self._turner), blocked
                ):
                    blocked = float("-inf")  # once is enough
                over = turned.wait(PAUSE_SECONDS)
                asked = self._count(task, asked)
                if over:
                    break
                blocked += self._clock.busy()

    def _turned(self, turned: threading.Event, asked: float) -> None:
        self.looks.append((asked, time.perf_counter() - asked))
        turned.set()

    def _name(self, frame: FrameType | None, seconds: float) -> bool:
        """Say who it is, if it is a plugin, while it still blocks, which may be for ever; each line once."""
        who, place = _blocker(frame)
        if place and place not in self._named:
            self._named.add(place)
            logger.warning(
                "%s blocks the event loop, for %.1f s by now, and with it all episodes, at %s. Await what "
                "takes time, or give it to grpo_sdk.blocking.call_blocking",
                who,
                seconds,
                place,
            )
        return bool(place)

    def _count(self, task: asyncio.Task[Any] | None, since: float) -> float:
        """Count the time ``since`` then as blocked by ``task``; gives the time now."""
        now = time.perf_counter()
        self._total += now - since
        if task is not None:
            self._own[task] = self._own.get(task, 0.0) + now - since
        return now


_watcher: _Watcher | None = None


class ThreadClock:
    """How long a thread ran or slept, without the time in which it was ready and other threads had the cores.

    Linux tells whether a thread is ready; elsewhere all time counts.
    """

    def __init__(self, clock: int | None, stat: Path) -> None:
        self._clock, self._stat = clock, stat
        self.restart()

    @classmethod
    def of_this_thread(cls) -> ThreadClock:
        """For the thread that calls it."""
        clock = time.pthread_getcpuclockid(threading.get_ident()) if sys.platform == "linux" else None
        return cls(clock, Path(f"/proc/self/task/{threading.get_native_id()}/stat"))

    def restart(self) -> None:
        """Begin anew; unlike ``busy`` it reads no file."""
        self._wall, self._ran = time.perf_counter(), self._seconds_run()

    def busy(self) -> float:
        """Seconds since it was restarted, or asked, last."""
        wall, ran = self._wall, self._ran
        self.restart()
        return self._ran - ran if self._is_ready() else self._wall - wall

    def _seconds_run(self) -> float:
        try:
            return 0.0 if self._clock is None else time.clock_gettime(self._clock)
        except OSError:
            return 0.0  # the thread has ended

    def _is_ready(self) -> bool:
        """Whether it runs, or would if a core were free."""
        try:
            return self._stat.read_text().rpartition(") ")[2].startswith("R")  # proc_pid_stat(5)
        except OSError:
            return False


def _blocker(frame: FrameType | None) -> tuple[str, str]:
    """Which plugin the loop is in, as the host's frames call it, and the line; nothing if it is in none."""
    frames: list[FrameType] = []
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.f_back
    files = [item.f_code.co_filename for item in frames]
    hosts = [at for at, file in enumerate(files) if file.startswith(_HOST)]
    inner = frames[max(hosts, default=-1) + 1 :]
    who = _tool(inner)
    for at in reversed(hosts):
        if who or not files[at].startswith(_ROLLOUTS):
            break  # what the agent does between is no plugin's
        who = frames[at].f_locals.get("who", "")
    if any(item.f_code is call_blocking.__code__ for item in inner):
        return "", ""  # a thread is being started for it, as it should be
    called = [(item.f_code.co_filename, item.f_lineno) for item in inner]
    return who, plugin_frame(called) if who else ""


def _tool(frames: list[FrameType]) -> str:
    calls = [item.f_locals.get("call") for item in frames if item.f_code.co_filename == toolbox.__file__]
    return next((f'tool "{call["function"]["name"]}"' for call in calls if isinstance(call, dict)), "")

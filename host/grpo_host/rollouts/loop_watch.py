"""Notices what blocks the event loop of the episodes: names the line, and takes the time off nobody else.

A plugin's coroutine that computes, sleeps or asks a server without ``await`` stops every episode. Without
this the model or a neighbour would be blamed, whose time limit ran out meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from grpo_host.plugins.failures import plugin_frame
from grpo_sdk import toolbox
from grpo_sdk.deadline import count_blocked

logger = logging.getLogger("grpo_host.plugins")

BLOCKED_SECONDS = 0.1
"""So long may the loop stand before it counts as blocked."""
PAUSE_SECONDS = 0.05
"""Between two looks."""

_ROLLOUTS = f"{Path(__file__).parent}/"
_HOST = f"{Path(__file__).parent.parent}/"
_lock = threading.Lock()
_watched = 0


class LoopWatch:
    """``with LoopWatch():`` in the loop that is to be watched. One at a time counts; others do nothing."""

    def __init__(self) -> None:
        self._total = 0.0
        self._own: WeakKeyDictionary[asyncio.Task[Any], float] = WeakKeyDictionary()
        self._named: set[str] = set()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LoopWatch:
        global _watched
        with _lock:
            _watched += 1
            if _watched > 1:
                return self
        self._loop, self._turner = asyncio.get_running_loop(), threading.get_ident()
        count_blocked(self._blocked_by_others)
        self._thread = threading.Thread(target=self._watch, name="grpo-loop-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _watched
        with _lock:
            _watched -= 1
        if self._thread is not None:
            count_blocked(None)
            self._over.set()

    def _blocked_by_others(self, task: asyncio.Task[Any]) -> float:
        return self._total - self._own.get(task, 0.0)

    def _watch(self) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            turned = threading.Event()
            asked = time.perf_counter()
            try:
                self._loop.call_soon_threadsafe(turned.set)
            except RuntimeError:
                return  # the loop is closed
            if turned.wait(BLOCKED_SECONDS):
                continue
            task = asyncio.current_task(self._loop)
            self._name(sys._current_frames().get(self._turner), time.perf_counter() - asked)
            while not turned.wait(PAUSE_SECONDS) and not self._over.is_set():
                asked = self._count(task, asked)
            self._count(task, asked)

    def _name(self, frame: FrameType | None, seconds: float) -> None:
        """Say who it is while it still blocks: it may do so for ever."""
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

    def _count(self, task: asyncio.Task[Any] | None, since: float) -> float:
        """Count the time ``since`` then as blocked by ``task``; gives the time now."""
        now = time.perf_counter()
        self._total += now - since
        if task is not None:
            self._own[task] = self._own.get(task, 0.0) + now - since
        return now


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
    called = [(item.f_code.co_filename, item.f_lineno) for item in inner]
    return who, plugin_frame(called) if who else ""


def _tool(frames: list[FrameType]) -> str:
    calls = [item.f_locals.get("call") for item in frames if item.f_code.co_filename == toolbox.__file__]
    return next((f'tool "{call["function"]["name"]}"' for call in calls if isinstance(call, dict)), "")

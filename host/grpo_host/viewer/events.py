"""What is new of a run, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson

from grpo_host.viewer import api
from grpo_host.viewer.viewed import Viewed, ViewedRun

SECONDS = 1.0
"""Between two looks."""
KEEP_ALIVE = 15
"""Looks without news, after which a comment shows that the connection is there."""


async def run_events(viewed: Viewed, item: ViewedRun, after: int) -> AsyncIterator[bytes]:
    """``state`` and ``index`` whenever they change, ``metrics`` with the steps behind ``after``."""
    told: dict[str, Any] = {}
    silent = 0
    while True:
        viewed.keep_up(item)
        found = await asyncio.to_thread(_look, item, after)
        after = max([after, *found["metrics"]["steps"]])
        news = {name: value for name, value in found.items() if told.get(name) != value}
        if not found["metrics"]["steps"]:
            news.pop("metrics", None)
        told.update(news)
        for name, value in news.items():
            yield b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(value))
        silent = 0 if news else silent + 1
        if silent and silent % KEEP_ALIVE == 0:
            yield b": nothing new\n\n"
        await asyncio.sleep(SECONDS)


def _look(item: ViewedRun, after: int) -> dict[str, Any]:
    return {
        "state": {"state": item.run.state, "evaluations": len(item.run.evaluations())},
        "metrics": api.metrics(item, after),
        "index": item.index.progress().as_dict(),
    }

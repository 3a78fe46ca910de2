"""Work that goes on if its caller is cancelled."""

from __future__ import annotations

import asyncio
from typing import Any


async def to_its_end(work: Any) -> None:
    """Await ``work`` to its end even if the caller is cancelled, so that it is known what was written."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise

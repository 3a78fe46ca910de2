"""A backend's beginning and end: what its plugin raises there is said in words, and ends nothing else."""

from __future__ import annotations

import logging

from grpo_host.agents.backend_failure import called
from grpo_host.plugins.failures import described, log_once, pass_interrupts
from grpo_sdk.backend import Backend
from grpo_sdk.blocking import awaited
from grpo_sdk.errors import GrpoError, PluginError

logger = logging.getLogger(__name__)


async def start_backend(backend: Backend) -> None:
    """Start it. Raises ``PluginError`` for whatever it raises that is no ``GrpoError``."""
    try:
        await awaited(backend.start(), "start")
    except GrpoError:
        raise
    except BaseException as problem:  # plugin code
        pass_interrupts(problem)
        text = f"{called(backend)}: start(): {described(problem)}"
        log_once(called(backend), text, problem)
        raise PluginError(text) from problem


async def close_backends(*backends: Backend) -> None:
    """Close each. What one raises is logged: the work is done."""
    for backend in backends:
        try:
            await awaited(backend.close(), "close")
        except BaseException as problem:  # plugin code
            pass_interrupts(problem)
            logger.warning("%s: close(): %s", called(backend), described(problem))

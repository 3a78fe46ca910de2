"""Tell plugins when a run starts and when it is over."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo_host.plugins.observing import tell
from grpo_host.plugins.registry import Registry
from grpo_host.utils.stdout import plugins_print_to_stderr

logger = logging.getLogger("grpo_host.plugins")

RUN_SECONDS = 30.0
"""Time limit of what one plugin does at the start or the end of a run."""


@contextmanager
def observed_run(
    registry: Registry | None,
    command: str,
    agent: str,
    directory: Path | None,
    *,
    seconds: float = RUN_SECONDS,
) -> Iterator[None]:
    """Tell the plugins of ``registry`` that a run starts, and when what goes on meanwhile is over."""
    about: dict[str, Any] = {"command": command, "agent": agent, "directory": directory}
    error: str | None = None
    _tell_all(registry, "grpo_run_started", about, seconds)
    try:
        yield
    except BaseException as problem:
        over = isinstance(problem, SystemExit) and not problem.code
        error = None if over else str(problem) or type(problem).__name__
        raise
    finally:
        _tell_all(registry, "grpo_run_finished", {**about, "error": error}, seconds)


def _tell_all(registry: Registry | None, hook: str, arguments: dict[str, Any], seconds: float) -> None:
    observers = registry.observers(hook) if registry else []
    if not observers:
        return
    with plugins_print_to_stderr():
        for plugin, call in observers:
            # In a thread, which is left to itself if it takes longer.
            thread = threading.Thread(
                target=tell,
                args=(plugin, hook, call, arguments),
                name=f"{hook} of {plugin.identifier}",
                daemon=True,
            )
            thread.start()
            thread.join(seconds)
            if thread.is_alive():
                text = "%s: %s is not done within %g s; the run goes on without it"
                logger.warning(text, plugin, hook, seconds)

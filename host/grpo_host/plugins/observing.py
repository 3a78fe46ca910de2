"""Tell observers what happens. What they raise is reported against their plugin, and changes nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from grpo_host.plugins.failures import described, log_once, pass_interrupts
from grpo_host.plugins.record import Plugin

logger = logging.getLogger("grpo_host.plugins")

Observer = Callable[[dict[str, Any]], Any]


def tell(plugin: Plugin, hook: str, call: Observer, arguments: dict[str, Any]) -> None:
    """Call one observer. A ``SystemExit`` and a Rust panic are failures of it like any other."""
    try:
        call(arguments)
    except BaseException as problem:
        pass_interrupts(problem)
        text = f"{plugin}: {hook}: {described(problem)}; the run goes on"
        log_once(f"{plugin}: {hook}", text, problem)


def tell_within(seconds: float, plugin: Plugin, hook: str, call: Observer, arguments: dict[str, Any]) -> None:
    """Call one observer in a thread, which is left to itself if it takes longer than ``seconds``."""
    thread = threading.Thread(
        target=tell, args=(plugin, hook, call, arguments), name=f"{hook} of {plugin.identifier}", daemon=True
    )
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        logger.warning("%s: %s is not done within %g s; the run goes on without it", plugin, hook, seconds)

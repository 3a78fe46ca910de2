"""Tell plugins what happened. What they raise is reported against their plugin, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpo_host.plugins.failures import described, log_once, pass_interrupts
from grpo_host.plugins.record import Plugin

Observer = Callable[[dict[str, Any]], Any]


def tell(plugin: Plugin, hook: str, call: Observer, arguments: dict[str, Any]) -> None:
    """Call one observer. A ``SystemExit`` and a Rust panic are failures of it like any other."""
    try:
        call(arguments)
    except BaseException as problem:
        pass_interrupts(problem)
        text = f"{plugin}: {hook}: {described(problem)}; the run goes on"
        log_once(f"{plugin}: {hook}", text, problem)

"""``grpo-host`` in processes that are forked from one which has imported what training stands on.

A process of its own, as its users start it: with its signals, its exit status and its output. Importing torch
and TRL is most of a short run's seconds, and is done once.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("trl", "transformers.models.llama.modeling_llama", "renderers", "ruamel.yaml"),
        *("langchain_core.retrievers", "langchain_core.tools.structured"),
        *("langchain_core.utils.function_calling", "grpo_sdk.langchain_tools"),
        *("grpo_host.training.trl.grpo", "grpo_host.training.trl.rollouts", "grpo_host.training.from_yaml"),
        *("grpo_host.checks.check", "grpo_host.cli", "grpo_backends.plugin", "grpo_environments.plugin"),
        *("grpo_rewards.plugin", "grpo_strategies.plugin", "grpo_tools.plugin"),
    ]
)
SECONDS = 240.0
"""How long a command may take."""


class ForkedCommand:
    """``grpo-host`` with ``arguments``; what it prints goes to the file ``log``."""

    def __init__(self, arguments: Sequence[str | Path], log: Path) -> None:
        self._log = log
        log.touch()
        self._process = _CONTEXT.Process(target=_run, args=([str(part) for part in arguments], str(log)))
        self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def returncode(self) -> int | None:
        """As ``subprocess`` gives it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid or 0, number)

    def lines(self) -> Iterator[str]:
        """What it prints, line by line as it comes, until it ends."""
        with self._log.open() as file:
            text = ""
            while True:
                ended = not self.running
                text += file.read()
                *whole, text = text.split("\n")
                yield from whole
                if ended:
                    return
                time.sleep(0.01)

    def finish(self) -> str:
        """Wait for its end; all that it has printed."""
        self._process.join(SECONDS)
        assert not self.running, f"it still runs after {SECONDS:g} s: {self._log.read_text()}"
        return self._log.read_text()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()


def _run(arguments: list[str], log: str) -> None:
    gc.freeze()  # a collection would look at all that was imported, and so copy its pages
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    from grpo_host.cli import main

    sys.exit(main(arguments))

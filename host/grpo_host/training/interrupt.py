"""Ctrl-C, SIGTERM and a closed terminal during training: save where it stands, then stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from grpo_host.training.ranks.process_group import Ranks


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Leave the training loop now; weights are those of the last finished step."""


class Interrupt:
    """Remembers that the user or the system asked to stop. A second Ctrl-C stops without saving.

    Of several ranks none may leave alone, or the others would wait for it: there, only
    ``together`` and ``check_together`` stop, which all ranks call at the same places.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self.ranks = ranks or Ranks()
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        """A signal has come."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as a shell would report it; 0 without one."""
        return 0 if self.signal is None else 128 + self.signal

    def check(self) -> None:
        """Raise ``StopTraining`` if a signal has come and this process is alone."""
        if self.requested and self.ranks.size == 1:
            raise StopTraining

    def together(self) -> bool:
        """Whether a signal has come to any rank; all of them know of it afterwards."""
        if self.ranks.size > 1:
            self.signal = max(self.ranks.gather([self.signal or 0])) or None
        return self.requested

    def check_together(self) -> None:
        """Raise ``StopTraining`` on all ranks if a signal has come to any."""
        if self.together():
            raise StopTraining

    @contextmanager
    def listening(self, announce: Callable[[str], None]) -> Iterator[Interrupt]:
        """Take SIGINT, SIGTERM and SIGHUP while the block runs. For the main thread.

        A SIGHUP that is ignored stays so: under nohup a run outlasts its terminal.
        """

        def handle(number: int, _: FrameType | None) -> None:
            if self.requested:
                if self.ranks.size == 1:
                    raise KeyboardInterrupt
                return  # elastic passes on what the terminal has sent already
            self.signal = number
            announce("stopping: saving a checkpoint first (once more to stop without)")

        taken = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            taken.append(signal.SIGHUP)
        before = {number: signal.signal(number, handle) for number in taken}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

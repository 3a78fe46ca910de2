from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from grpo_host.training.interrupt import Interrupt, StopTraining
from grpo_host.training.ranks.process_group import Ranks


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_is_remembered_and_announced(number, code):
    said: list[str] = []
    with Interrupt().listening(said.append) as interrupt:
        interrupt.check()
        os.kill(os.getpid(), number)
        assert interrupt.requested
        with pytest.raises(StopTraining):
            interrupt.check()
    assert said == ["stopping: saving a checkpoint first (once more to stop without)"]
    assert interrupt.exit_code == code


def test_a_run_under_nohup_outlasts_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt().listening(print) as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not interrupt.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


IN_A_TERMINAL = """
import fcntl, pathlib, sys, termios, time
from grpo_host.utils.progress import Reporter
from grpo_host.training.interrupt import Interrupt

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
reporter = Reporter()
with Interrupt().listening(reporter.line) as interrupt, reporter.phase("training", 9) as advance:
    reporter.line("ready")
    while not interrupt.requested:
        time.sleep(0.01)
    advance()
    reporter.line("saved")
pathlib.Path(sys.argv[1]).write_text(str(interrupt.exit_code))
"""


def test_a_run_saves_although_the_terminal_that_it_would_tell_so_is_closed(tmp_path):
    terminal, own = pty.openpty()
    result = tmp_path / "result"
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, str(result)],
        stdin=own,
        stdout=own,
        stderr=own,
        start_new_session=True,
    )
    os.close(own)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    process.wait(timeout=60)
    assert result.read_text() == "129"


def test_a_second_signal_stops_at_once():
    with Interrupt().listening(lambda _: None) as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert interrupt.signal == signal.SIGTERM


def test_without_a_signal_nothing_stops():
    with Interrupt().listening(print) as interrupt:
        interrupt.check()
    assert (interrupt.requested, interrupt.exit_code) == (False, 0)


def test_handlers_are_put_back_also_after_an_error():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyError), Interrupt().listening(print):
        raise KeyError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


class TwoRanks(Ranks):
    """Rank 0 of two; the other one had a SIGTERM."""

    def gather(self, items):
        return [*items, 15]


def test_no_rank_leaves_alone_and_all_leave_together():
    interrupt = Interrupt(TwoRanks(0, 2))
    with interrupt.listening(lambda _: None):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        interrupt.check()
        with pytest.raises(StopTraining):
            interrupt.check_together()


def test_a_rank_hears_of_a_signal_that_another_had():
    interrupt = Interrupt(TwoRanks(0, 2))
    assert not interrupt.requested
    assert interrupt.together()
    assert interrupt.exit_code == 128 + signal.SIGTERM

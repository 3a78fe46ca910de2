from __future__ import annotations

import io

import pytest

from grpo_host.utils import progress
from grpo_host.utils.progress import Reporter


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_is_printed_as_it_is():
    file = io.StringIO()
    line = "agent.yaml:3: [bold]rewards[/bold] [a] :smile: [0.1, 0.2] " + "x" * 300
    Reporter(file).line(line)
    assert file.getvalue() == line + "\n"


def test_where_there_is_no_terminal_short_phases_say_nothing():
    file = io.StringIO()
    with Reporter(file).phase("rollouts", 3) as advance:
        for _ in range(3):
            advance()
    assert file.getvalue() == ""


@pytest.mark.parametrize(("total", "lines"), [(4, "rollouts: 2 of 4\n"), (None, "rollouts: 2\n")])
def test_where_there_is_no_terminal_long_phases_say_where_they_are(monkeypatch, total, lines):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    with Reporter(file).phase("rollouts", total) as advance:
        advance()
        now[0] = progress.PLAIN_SECONDS + 1
        advance()
        advance()
    assert file.getvalue() == lines


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def test_on_a_terminal_a_phase_is_a_bar_that_goes_away(terminal):
    reporter = Reporter(terminal)
    with reporter.phase("training", 2) as advance:
        advance()
        reporter.line("step 1")
        with reporter.phase("rollouts", 3) as inner:
            inner()
        advance()
    assert "training" in terminal.getvalue()
    assert "step 1" in terminal.getvalue()
    assert reporter._bars is None


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"])
def test_a_log_is_not_redrawn_where_colours_are_forced(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    log = io.StringIO()
    reporter = Reporter(log)
    with reporter.phase("training", 2) as advance:
        advance()
        reporter.line("step 1")
        advance()
    assert log.getvalue() == "step 1\n"


def test_a_terminal_that_cannot_redraw_is_not_redrawn(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with Reporter(terminal).phase("training", 2) as advance:
        advance()
    assert terminal.getvalue() == ""


def test_a_bar_goes_away_also_where_the_phase_fails(terminal):
    reporter = Reporter(terminal)
    with pytest.raises(KeyError), reporter.phase("training"):
        raise KeyError
    assert reporter._bars is None
    reporter.line("after")
    assert terminal.getvalue().endswith("after\n")


def test_a_quiet_reporter_says_nothing():
    file = io.StringIO()
    reporter = Reporter(file, quiet=True)
    reporter.line("x")
    assert file.getvalue() == ""

"""Plugins hear of a run's start and end, and what they do then changes nothing for the run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from grpo_host.plugins import Registry
from grpo_host.plugins.observed_run import observed_run
from grpo_sdk import hookimpl


class Diary:
    def __init__(self) -> None:
        self.lines: list[Any] = []

    @hookimpl
    def grpo_run_started(self, command, agent, directory):
        self.lines.append(("started", command, agent, directory))

    @hookimpl
    def grpo_run_finished(self, error):
        self.lines.append(("finished", error))


class Broken:
    @hookimpl
    def grpo_run_started(self):
        raise SystemExit(1)

    @hookimpl
    def grpo_run_finished(self):
        raise ValueError("no connection")


class Slow:
    over = threading.Event()

    @hookimpl
    def grpo_run_started(self):
        self.over.wait()


def registered(*plugins: object) -> Registry:
    registry = Registry()
    for number, plugin in enumerate(plugins):
        registry.register(plugin, f"{type(plugin).__name__.lower()}{number}", distribution="acme")
    return registry


def test_a_plugin_hears_of_the_start_and_the_end_with_what_it_asks_for() -> None:
    diary = Diary()
    with observed_run(registered(diary), "run", "desk", Path("runs/1")):
        assert diary.lines == [("started", "run", "desk", Path("runs/1"))]
    assert diary.lines[1:] == [("finished", None)]


def test_a_plugin_hears_why_a_run_failed() -> None:
    diary = Diary()
    with pytest.raises(RuntimeError), observed_run(registered(diary), "eval", "desk", None):
        raise RuntimeError("out of memory")
    assert diary.lines[1:] == [("finished", "out of memory")]


def test_what_a_plugin_raises_is_reported_against_it_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    diary = Diary()
    with observed_run(registered(Broken(), diary), "run", "desk", None):
        pass
    assert len(diary.lines) == 2
    assert 'acme (entry point "broken0"): grpo_run_started: SystemExit: 1' in caplog.text
    assert 'acme (entry point "broken0"): grpo_run_finished: ValueError: no connection' in caplog.text


def test_a_plugin_that_does_not_return_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    with observed_run(registered(Slow()), "run", "desk", None, seconds=0.05):
        pass
    Slow.over.set()
    [said] = caplog.messages
    assert said == (
        'acme (entry point "slow0"): grpo_run_started is not done within 0.05 s; the run goes on without it'
    )


def test_what_a_plugin_prints_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    class Chatty:
        @hookimpl
        def grpo_run_finished(self):
            print("done")

    with observed_run(registered(Chatty()), "run", "desk", None):
        pass
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "done\n")

"""What ranks that are started again know of those before them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from grpo_host.training.ranks.restarts import (
    FOLDER,
    exit_at_once,
    remember_exit,
    remember_run,
    remembered_launch,
    run_to_go_on_with,
)

COUNT = "TORCHELASTIC_RESTART_COUNT"


def test_the_first_ranks_know_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COUNT, "0")
    with remembered_launch():
        remember_run(Path("runs/a"))
        remember_exit(2)
        assert run_to_go_on_with() is None
        assert exit_at_once() is None


def test_those_after_a_death_go_on_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with remembered_launch():
        remember_run(Path("runs/a"))
        monkeypatch.setenv(COUNT, "1")
        assert run_to_go_on_with() == str(Path("runs/a").resolve())
        assert exit_at_once() is None


def test_ranks_that_died_before_there_was_a_run_begin_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COUNT, "1")
    with remembered_launch():
        assert run_to_go_on_with() is None


def test_what_a_user_has_to_mend_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with remembered_launch():
        remember_exit(2)
        monkeypatch.setenv(COUNT, "1")
        assert exit_at_once() == 2


def test_under_a_torchrun_of_the_users_the_latest_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COUNT, "1")
    assert run_to_go_on_with() == "latest"
    remember_exit(2)
    assert exit_at_once() is None


def test_the_folder_goes_with_the_launcher() -> None:
    with remembered_launch():
        folder = Path(os.environ[FOLDER])
        assert folder.is_dir()
    assert FOLDER not in os.environ
    assert not folder.exists()

"""What ranks that are started again know of those before them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_host.training.ranks.restarts import (
    FOLDER,
    exit_at_once,
    main_has_ended,
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


def test_a_rank_that_cannot_begin_waits_until_the_main_one_has_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with remembered_launch():
        assert not main_has_ended(0.0)  # the problem is this rank's alone
        monkeypatch.setenv("LOCAL_RANK", "1")
        remember_exit(2)
        assert not main_has_ended(0.0)
        monkeypatch.setenv("LOCAL_RANK", "0")
        remember_exit(2)
        assert main_has_ended(0.0)


def test_under_a_torchrun_of_the_users_the_latest_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COUNT, "1")
    assert run_to_go_on_with() == "latest"
    remember_exit(2)
    assert exit_at_once() is None
    assert main_has_ended()


def test_the_folder_goes_with_the_launcher() -> None:
    with remembered_launch():
        folder = Path(os.environ[FOLDER])
        assert folder.is_dir()
    assert FOLDER not in os.environ
    assert not folder.exists()


RANK = """
import os, signal, sys, time
from pathlib import Path
from grpo_host.training.ranks.restarts import (
    exit_at_once, main_has_ended, remember_exit, remember_run, run_to_go_on_with
)

folder, how = Path(sys.argv[1]), sys.argv[2]
if (code := exit_at_once()) is not None:
    sys.exit(code)
rank = os.environ["RANK"]
with (folder / f"rank-{rank}").open("a") as log:
    log.write(f"{run_to_go_on_with()}\\n")
remember_run(folder / "run")
if how == "refuses":
    remember_exit(2)
    if rank == "1":
        main_has_ended(100)
    sys.exit(2)
if run_to_go_on_with() is None:
    (folder / f"ready-{rank}").touch()
    while not (folder / "ready-0").exists():  # then there is a run to go on with
        time.sleep(0.01)
    if rank == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code", "began"), [("dies", 0, 2), ("refuses", 2, 1)])
def test_all_ranks_start_again_when_one_dies_and_not_when_one_refuses(tmp_path, how, code, began) -> None:
    """In a process of its own, as ``launch`` starts ranks by torch, which is large."""
    rank = tmp_path / "rank.py"
    rank.write_text(RANK)
    command = [sys.executable, str(rank), str(tmp_path), how]
    launcher = (
        "import sys; from grpo_host.training.ranks.process_group import launch; "
        f"sys.exit(launch({command!r}, 2, max_restarts=1))"
    )
    done = subprocess.run([sys.executable, "-c", launcher], capture_output=True, text=True, timeout=240)

    assert done.returncode == code, done.stderr
    begun = [str(None), str((tmp_path / "run").resolve())][:began]
    assert (tmp_path / "rank-0").read_text().splitlines() == begun

"""``grpo-host runs``, ``watch`` and ``report``, on runs that were written by hand."""

from __future__ import annotations

import io
import sys

import pytest

from grpo_host.cli import main
from grpo_host.runs.directory import RunDirectory

RUN = "20261128-100000-aaaa"


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    made = RunDirectory(tmp_path / "runs" / "shop" / RUN)
    made.path.mkdir(parents=True)
    made.agent_yaml.write_text("name: shop\ntraining: {steps: 9}\n")
    measured = {"split": "held_out", "success": None}
    made.write_json(
        made.report,
        {
            "before": {**measured, "reward": {"mean": 0.1, "low": 0.0, "high": 0.2}},
            "warm_start": {**measured, "reward": {"mean": 0.3, "low": 0.2, "high": 0.4}},
            "after": {**measured, "reward": {"mean": 0.9, "low": 0.8, "high": 1.0}},
            "steps": 5,
        },
    )
    for step in range(1, 6):
        made.append_metrics({"step": step, "reward": step / 10, "entropy": 0.5, "rollouts/cut": 0.9})
    return made


def test_runs_are_listed_with_what_they_gained_and_take(run, capsys) -> None:
    assert main(["runs"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    for text in (
        RUN,
        "shop",
        "finished",
        "5/9",
        "0.10 [0.00, 0.20] → 0.30 [0.20, 0.40] → 0.90 [0.80, 1.00]",
        " B",
    ):
        assert text in line
    assert main(["runs", "--in", "elsewhere"]) == 0
    assert "no runs in" in capsys.readouterr().err


def test_a_run_is_deleted_when_it_is_confirmed(run, capsys) -> None:
    assert main(["runs", "delete", RUN, "--yes"]) == 0
    assert not run.path.exists()
    assert "deleted" in capsys.readouterr().err


def test_a_run_is_not_deleted_while_it_runs_nor_where_there_is_nobody_to_ask(
    run, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["runs", "delete", RUN]) == 130
    other = RunDirectory(run.path).acquire()
    try:
        assert main(["runs", "delete", RUN, "--yes"]) == 2
    finally:
        other.release()
    assert "is running: end it first (Ctrl-C where it was started)" in capsys.readouterr().err
    assert run.metrics.exists()


def test_who_deletes_a_run_is_told_which_other_one_begins_with_it(run, capsys, monkeypatch) -> None:
    other = run.path.parent / "20261123-101500-0000"
    other.mkdir()
    (other / "agent.yaml").write_text(f"name: later\nmodel: {{name: none, adapter: {run.path}/adapter}}\n")
    (other / ".lock").touch()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    main(["runs", "delete", RUN])
    assert f"; {other.name} names it in its agent.yaml)?" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["watch"], ["watch", RUN, "--once"], ["report"]])
def test_a_run_is_told_of_in_forty_columns(run, capsys, monkeypatch, command) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    text = " ".join(" ".join(lines).split())
    for part in ("finished, step 5 of 9", "reward 0.500", "entropy 0.500", "after: held_out reward 0.900",
                 "warning: steps 1 to 3: 90% of the replies were cut at sampling.max_tokens"):  # fmt: skip
        assert part in text


def test_runs_are_listed_one_below_another_in_forty_columns(run, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[0].strip() == RUN
    assert "  steps: 5/9" in [line.rstrip() for line in lines]


def test_a_report_is_written_as_one_page(run, capsys, tmp_path) -> None:
    assert main(["report", RUN, "--html", "report.html"]) == 0
    assert capsys.readouterr().out == "report.html\n"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert main(["report", RUN, "--html", "nowhere/report.html"]) == 2
    assert "cannot write nowhere/report.html" in capsys.readouterr().err


def test_a_directory_that_is_not_there_cannot_be_viewed(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["view"]) == 2
    assert "there is no directory runs; name one that holds runs" in capsys.readouterr().err

"""Trajectories as OpenEnv's training traces."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import pytest
from bench.bridges import compare

from grpo_host.cli import main
from grpo_host.export.openenv import ledger_of_trace, training_trace
from grpo_host.runs.directory import RunDirectory
from grpo_sdk.testing import make_trajectory
from grpo_sdk.trajectory import Ledger, TokenSequence

TWO_ANSWERS = TokenSequence(
    [1, 2, 3, 4, 5, 6], [0, 0, 1, 0, 1, 1], [0.0, 0.0, -0.5, 0.0, -0.1, -0.2], [-1, -1, 3, -1, 3, 3]
)
OF_A_JUDGE = replace(TWO_ANSWERS, ids=[1, 2, 3, 9, 5, 6], role="judge", weight=0.0)
LEDGER = Ledger([TWO_ANSWERS, OF_A_JUDGE])
CHECKS = """\
import sys
from openenv.core.harness.training import TrainingTrace
TrainingTrace.model_validate_json(sys.stdin.read())
"""


def test_each_answer_is_a_turn_that_is_trained_on_nothing_else():
    first, second, *_ = training_trace("e1", LEDGER)["turns"]
    assert (first["prompt_token_ids"], first["completion_token_ids"]) == ([1, 2], [3])
    assert second["prompt_token_ids"] == [1, 2, 3, 4]
    assert second["completion_token_ids"] == [5, 6]
    assert second["per_token_logps"] == [-0.1, -0.2]
    assert second["loss_mask"] == [0, 0, 0, 0, 1, 1]


def test_what_is_not_trained_has_a_mask_of_zeros():
    assert [any(turn["loss_mask"]) for turn in training_trace("e1", LEDGER)["turns"]] == [
        True,
        True,
        False,
        False,
    ]


def test_a_trace_is_read_back_as_the_ledger_that_it_was():
    assert ledger_of_trace(json.loads(json.dumps(training_trace("e1", LEDGER)))) == LEDGER


def test_openenv_itself_accepts_the_trace():
    venv = compare.venv("openenv")
    if venv is None:
        pytest.skip(f"no openenv in {compare.VENVS}; `make bridges` brings it")
    trace = json.dumps(training_trace("e1", LEDGER)).encode()
    subprocess.run([venv / "bin" / "python", "-c", CHECKS], input=trace, check=True)


def test_a_trace_of_another_version_is_refused():
    with pytest.raises(ValueError, match="the trace has the schema version 2, not 1"):
        ledger_of_trace({"schema_version": 2, "turns": []})


def test_a_mask_that_does_not_cover_its_turn_is_refused():
    trace = training_trace("e1", LEDGER)
    trace["turns"][0]["loss_mask"].pop()
    with pytest.raises(ValueError, match="turn e1/0/2: its loss_mask does not cover prompt and completion"):
        ledger_of_trace(trace)


@pytest.fixture
def run(tmp_path):
    made = RunDirectory(tmp_path / "run")
    made.path.mkdir()
    (made.path / "agent.yaml").write_text("name: desk\n")
    return made


def test_a_runs_trajectories_are_written_with_their_rewards(run, capsys):
    run.append_trajectory(replace(make_trajectory("Hello."), ledger=LEDGER, reward=0.5))
    run.append_trajectory(make_trajectory("Without tokens."))
    assert main(["export", str(run.path), "--format", "openenv"]) == 0
    [line] = (run.path / "export" / "openenv.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["task"], record["reward"], len(record["trace"]["turns"])) == ("task-0", 0.5, 4)
    assert capsys.readouterr().out.strip().endswith("openenv.jsonl")

    assert main(["export", str(run.path), "--format", "openenv"]) == 2
    assert "exists; delete it, or name another --out" in capsys.readouterr().err


def test_a_run_without_exact_tokens_is_an_error_that_says_who_records_them(run, capsys):
    run.append_trajectory(make_trajectory("Hello."))
    assert main(["export", str(run.path), "--format", "openenv"]) == 2
    assert "has no trajectory with exact tokens: a backend that speaks token ids" in capsys.readouterr().err


def test_traces_are_not_pushed(run, capsys):
    assert main(["export", str(run.path), "--format", "openenv", "--push", "me/mine"]) == 2
    assert "--push takes a model" in capsys.readouterr().err

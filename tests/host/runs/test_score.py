"""Scoring what was played before."""

from __future__ import annotations

import dataclasses
import json

import pytest

from grpo_host.cli import main
from grpo_host.runs.directory import RunDirectory
from grpo_sdk import Task, Trajectory
from grpo_sdk.testing import make_trajectory
from grpo_sdk.trajectory import RewardRecord

REWARDS = """
def short(trajectory, *, limit: int = 5):
    if trajectory.final_text == "?":
        raise KeyError("no answer")
    return float(len(trajectory.final_text) <= limit)


def best(completions, **_):
    longest = max(len(c[-1]["content"]) for c in completions)
    return [float(len(c[-1]["content"]) == longest) for c in completions]
"""


def played(text, task="t", sample=0, **changes):
    return dataclasses.replace(
        make_trajectory(text),
        id=f"1/{task}/{sample}",
        task=Task(task),
        rewards={"short": RewardRecord(0.5)},
        reward=0.5,
        **changes,
    )


ALL = [
    played("Hi.", sample=0),
    played("A long one.", sample=1),
    played("Hi.", "u"),
    played("x", "u", 1, status="failed"),
]


@pytest.fixture
def score(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(REWARDS)
    (tmp_path / "new.yaml").write_text("rewards: [./my.py:short, {name: ./my.py:best, weight: 2.0}]\n")
    (tmp_path / "played.jsonl").write_bytes(b"".join(item.to_json() + b"\n" for item in ALL))

    def score(*arguments, source="played.jsonl"):
        status = main(["score", source, "--rewards", "new.yaml", *arguments])
        return status, capsys.readouterr()

    return score


def test_old_and_new_scores_are_compared(score):
    status, said = score("--json")
    found = json.loads(said.out)
    assert status == 0
    assert found["rewards"]["short"] == {"before": 0.5, "now": pytest.approx(2 / 3), "change": 0.5}
    assert found["rewards"]["best"] == {"before": None, "now": pytest.approx(2 / 3), "change": None}
    assert found["rewards"]["reward"]["now"] == pytest.approx(2.0)
    assert (found["trajectories"], found["failed"], found["unscored"]) == (4, 1, 0)


@pytest.mark.parametrize("name", ["my.py:short", "./my.py:short", "{0}/my.py:short"])
def test_one_reward_of_a_file_is_enough(score, tmp_path, name):
    status, said = score("--rewards", name.format(tmp_path), "--json")
    assert status == 0
    assert set(json.loads(said.out)["rewards"]) == {"short", "reward"}


def test_a_line_that_is_no_trajectory_is_named_in_one_line(score, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "2 + 2?"}\n')
    status, said = score(source="rows.jsonl")
    assert status == 2
    [line] = said.err.splitlines()
    assert line.startswith("error: rows.jsonl:1: no trajectory: ")


def test_a_table_is_for_people(score):
    _, said = score()
    assert "short" in said.out
    assert "0.667" in said.out
    assert "4 trajectories, 1 failed episodes, which are not scored" in said.out


def test_a_group_is_scored_together_and_written_with_its_new_scores(score, tmp_path):
    score("--out", "scored.jsonl")
    items = [Trajectory.from_json(line) for line in (tmp_path / "scored.jsonl").read_bytes().splitlines()]
    assert [item.id for item in items] == [item.id for item in ALL]
    assert [item.rewards["best"].value for item in items[:3]] == [0.0, 1.0, 1.0]
    assert items[3].rewards == {"short": RewardRecord(0.5)}, "a failed episode keeps what it had"


def test_a_run_is_scored_by_its_directory(score, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    for item in ALL:
        run.append_trajectory(item)
    status, said = score("--json", source="run")
    assert (status, json.loads(said.out)["trajectories"]) == (0, 4)


def test_what_cannot_be_scored_is_counted_and_told(score, tmp_path):
    (tmp_path / "played.jsonl").write_bytes(played("?").to_json())
    status, said = score()
    assert status == 1
    assert "1 have no score; what failed most: reward short: KeyError: 'no answer' (" in said.out


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("played.jsonl", "", "played.jsonl: there is no trajectory in it"),
        ("played.jsonl", '{"a": 1}\n', "played.jsonl:1: no trajectory"),
        ("new.yaml", "name: x\n", "new.yaml: it has no rewards. Begin with rewards: [task_success]"),
        ("new.yaml", "rewards: [emptay]\n", 'new.yaml: no reward "emptay"'),
        ("new.yaml", "rewards:\n- {name: length, weigth: 1}\n", "new.yaml:2: rewards[0].weigth: unknown key"),
    ],
)
def test_what_is_wrong_is_named(score, tmp_path, file, content, said):
    (tmp_path / file).write_text(content)
    status, output = score()
    assert status != 0
    assert said in output.err


def test_what_is_there_is_not_overwritten(score):
    score("--out", "scored.jsonl")
    status, output = score("--out", "scored.jsonl")
    assert status != 0
    assert "scored.jsonl holds something already; name another --out" in output.err


def test_a_file_that_is_not_there_is_named(score):
    assert "gone.jsonl: cannot be read: No such file" in score(source="gone.jsonl")[1].err

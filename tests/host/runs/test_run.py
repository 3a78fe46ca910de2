"""What a run's directory says while it grows, and how it ended."""

from __future__ import annotations

import json

import pytest

from grpo_host.runs.directory import RunDirectory
from grpo_host.runs.run import Run, find_runs, named_run
from grpo_sdk.errors import RunError
from grpo_sdk.trajectory import StopReason, Task, Trajectory


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    made = RunDirectory(tmp_path / "runs" / "shop" / "20261128-100000-aaaa")
    made.path.mkdir(parents=True)
    made.agent_yaml.write_text("name: shop\ntraining: {steps: 9}\n")
    (made.path / ".lock").touch()
    return made


@pytest.mark.parametrize(
    ("report", "state"),
    [({}, "stopped"), ({"steps": 9}, "finished"), ({"error": "RunError: the disk is full"}, "failed")],
)
def test_a_run_says_how_it_ended(directory, report, state) -> None:
    directory.write_json(directory.report, report)
    assert Run(directory.path).state == state


def test_the_weights_of_rewards_from_files_and_plugins_are_known_to_the_diagnosis(directory) -> None:
    directory.agent_yaml.write_text(
        "name: shop\nrewards:\n- {name: /home/me/mine.py:right, weight: 5}\n- {name: 'other-dist:brief', weight: 1}\n"
    )
    for step in (1, 2, 3):
        directory.append_metrics({"step": step, "rewards/right/std": 0.5, "rewards/brief/std": 0.01})
    (found,) = Run(directory.path).diagnosis()
    assert (found.rule, "the reward right alone decides" in found.text) == ("dominates", True)


def test_what_ended_a_run_stands_first_in_its_diagnosis(directory) -> None:
    for step in (1, 2, 3):
        directory.append_metrics({"step": step, "rollouts/cut": 0.9})
    directory.write_json(directory.report, {"error": "RunError: the disk is full. Make room"})
    first, second = Run(directory.path).diagnosis()
    assert first.text == "the run ended after step 3 with RunError: the disk is full. Make room"
    assert (first.rule, first.severity, second.rule) == ("ended", "error", "cut")
    directory.acquire()  # it goes on
    assert [found.rule for found in Run(directory.path).diagnosis()] == ["cut"]
    directory.release()


def test_a_run_that_is_looked_at_can_be_held_at_the_same_time(directory) -> None:
    run = Run(directory.path)
    assert run.state == "stopped"
    directory.acquire()
    assert run.state == "running"
    directory.release()
    assert run.state == "stopped"


def test_a_run_that_trains_says_how_long_it_still_takes(directory) -> None:
    run = Run(directory.path)
    directory.append_metrics({"step": 1, "time": 100.0})
    directory.acquire()
    assert run.seconds_left is None, "one step tells nothing"
    for step in (2, 3):
        directory.append_metrics({"step": step, "time": 100.0 + 20 * (step - 1)})
    assert run.seconds_left == 6 * 20
    directory.append_metrics({"step": 9, "time": 260.0})
    assert run.seconds_left is None, "the last step is done, and what is measured then takes its time"
    assert run.is_ending
    directory.release()
    assert run.seconds_left is None
    assert not run.is_ending


def test_lines_are_read_as_they_come_without_damaged_ones_and_anew_when_rewritten(directory) -> None:
    run = Run(directory.path)
    assert run.metric_lines() == []
    directory.append_metrics({"step": 1, "loss": float("nan")})
    with directory.metrics.open("a") as file:
        file.write('\0\0\n{"step": 2, "reward": 1}\n{"step": 3, "rew')
    assert [line["step"] for line in run.metric_lines()] == [1, 2]
    with directory.metrics.open("a") as file:
        file.write('ard": 2}\n')
    assert run.metric_lines()[-1] == {"step": 3, "reward": 2}
    directory.forget_after(1)
    assert [line["step"] for line in run.metric_lines()] == [1]


def test_evaluations_come_in_order_with_their_steps(directory) -> None:
    measured = {"split": "held_out", "reward": {"mean": 0.5, "low": 0.4, "high": 0.6}, "success": None}
    early = {"split": "validation", "rewards": {"0": 0.1, "5": 0.2}}
    directory.write_json(
        directory.report, {"before": measured, "after": measured, "early_stopping": early, "steps": 9}
    )
    directory.append_metrics({"step": 9})
    found = Run(directory.path).evaluations()
    assert [(item["label"], item["step"], item["reward"], item["low"]) for item in found] == [
        ("before", 0, 0.5, 0.4), ("step-0", 0, 0.1, None), ("step-5", 5, 0.2, None), ("after", 9, 0.5, 0.4),
    ]  # fmt: skip


def test_runs_are_named_by_path_by_id_and_as_the_latest(directory, tmp_path) -> None:
    place = tmp_path / "runs"
    later = RunDirectory(place / "shop" / "20261129-100000-bbbb")
    evaluation = RunDirectory(place / "shop" / "evaluations" / "20261130-100000-cccc")
    for other in (later, evaluation):
        other.path.mkdir(parents=True)
        other.agent_yaml.write_text("name: shop\n")
        other.append_metrics({"step": 1})
    assert [run.path for run in find_runs(place)] == [evaluation.path, later.path, directory.path]
    assert named_run("latest", place).path == later.path
    assert named_run(directory.path.name, place).path == directory.path
    assert named_run(str(directory.path), tmp_path).path == directory.path
    with pytest.raises(RunError, match=r"no run other in .*; give a run's directory, or see grpo-host runs"):
        named_run("other", place)


def test_what_is_no_run_is_refused(tmp_path) -> None:
    (tmp_path / "agent.yaml").write_text("name: shop\n")
    with pytest.raises(RunError, match="is no run's directory; grpo-host runs lists"):
        Run(tmp_path)


def test_a_notebook_gets_metrics_and_trajectories_as_tables(directory) -> None:
    pytest.importorskip("pandas")
    directory.append_metrics({"step": 1, "reward": 0.5})
    directory.append_trajectory(
        Trajectory("1/t/0", "shop", Task("t"), "completed", StopReason.DONE, [], reward=0.5)
    )
    run = Run(directory.path)
    assert run.metrics().loc[1, "reward"] == 0.5
    table = run.trajectories()
    assert table.loc[0, ["id", "step", "reward", "turns"]].to_list() == ["1/t/0", 1, 0.5, 0]
    assert json.loads(table.loc[0, "trajectory"].to_json())["id"] == "1/t/0"


def test_without_pandas_a_notebook_is_told_what_to_install(directory, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(RunError, match="pip install pandas"):
        Run(directory.path).metrics()

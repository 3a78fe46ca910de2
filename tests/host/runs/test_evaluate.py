"""`grpo-host eval` and `grpo-host rollout`, on the scripted backend: no model, the real commands."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from grpo_host.cli import main
from grpo_sdk import Trajectory

AGENT = """\
name: desk
model: nobody
backend: {name: scripted, options: {replies: [I am sorry. I will check your order right away.]}}
environment: support_desk
rewards: [empathy, action_orientation]
evaluation: {episodes: 6}
"""


@pytest.fixture
def agent_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "agent.yaml"
    path.write_text(AGENT)
    return path


def trajectories(path: Path) -> list[Trajectory]:
    return [Trajectory.from_json(line) for line in path.read_bytes().splitlines()]


def test_an_evaluation_prints_an_interval_and_leaves_its_trajectories(agent_yaml, capsys):
    assert main(["eval", str(agent_yaml)]) == 0

    [directory] = Path("runs/desk/evaluations").iterdir()
    report = json.loads((directory / "report.json").read_text())
    assert report["episodes"] == 6
    assert report["reward"]["low"] <= report["reward"]["mean"] <= report["reward"]["high"]
    assert len(trajectories(directory / "trajectories.jsonl")) == 6
    assert "6 held_out episodes" in capsys.readouterr().out


OBSERVER = """
from pathlib import Path
from grpo_sdk import hookimpl

@hookimpl
def grpo_run_started(command, agent, directory):
    with Path("heard.txt").open("a") as file:
        print("started", command, agent, directory and directory.name, file=file)

@hookimpl
def grpo_run_finished(command, error):
    with Path("heard.txt").open("a") as file:
        print("finished", command, error, file=file)
    raise SystemExit(1)
"""


def test_plugins_hear_of_the_start_and_the_end_of_each_command(agent_yaml, index):
    built_in = ("backends", "environments", "rewards", "strategies")
    index.describe("grpo-agent-framework", **{name: f"grpo_{name}.plugin" for name in built_in})
    index.install("acme", diary=OBSERVER)

    assert main(["eval", str(agent_yaml), "--out", "here", "--episodes", "1"]) == 0
    assert main(["rollout", str(agent_yaml), "--episodes", "1", "--out", "played.jsonl"]) == 0

    assert Path("heard.txt").read_text().splitlines() == [
        "started eval desk here",
        "finished eval None",
        "started rollout desk None",
        "finished rollout None",
    ]


def test_json_is_all_that_is_printed_when_it_is_asked_for(agent_yaml, capsys):
    assert main(["eval", str(agent_yaml), "--json", "--episodes", "2"]) == 0

    printed = json.loads(capsys.readouterr().out)
    assert printed["episodes"] == 2
    assert printed["backend"] == "scripted"


def test_an_interrupted_evaluation_plays_only_what_is_missing(agent_yaml):
    assert main(["eval", str(agent_yaml), "--out", "here"]) == 0
    file = Path("here/trajectories.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:4]))

    assert main(["eval", str(agent_yaml), "--out", "here", "--resume"]) == 0

    ids = [item.task.id for item in trajectories(file)]
    assert len(ids) == 6
    assert len(set(ids)) == 6
    assert json.loads(Path("here/report.json").read_text())["episodes"] == 6


def test_a_moved_run_is_evaluated_beside_where_it_is_now(agent_yaml):
    assert main(["eval", str(agent_yaml)]) == 0
    [first] = Path("runs/desk/evaluations").iterdir()
    moved = Path("elsewhere/20260101-000000-abcd")
    moved.parent.mkdir()
    first.rename(moved)
    said = f"{AGENT}output: {Path('runs').absolute()}\n"
    (moved / "agent.yaml").write_text(said)

    assert main(["eval", str(moved / "agent.yaml"), "--episodes", "2"]) == 0

    [second] = Path("elsewhere/evaluations").iterdir()
    assert list(Path("runs/desk/evaluations").iterdir()) == []
    (second / "agent.yaml").write_text(said)
    assert main(["eval", str(second / "agent.yaml"), "--episodes", "2"]) == 0
    assert len(list(Path("elsewhere/evaluations").iterdir())) == 2
    assert main(["eval", str(moved / "agent.yaml"), "--episodes", "2", "--set", "output=there"]) == 0
    assert len(list(Path("there/desk/evaluations").iterdir())) == 1


def test_an_evaluation_is_not_resumed_with_other_settings(agent_yaml, capsys):
    main(["eval", str(agent_yaml), "--out", "here"])

    assert main(["eval", str(agent_yaml), "--out", "here", "--resume", "--set", "seed=5"]) == 2
    assert "was made with other settings; evaluate without --resume" in capsys.readouterr().err


def test_an_evaluation_is_not_overwritten(agent_yaml, capsys):
    main(["eval", str(agent_yaml), "--out", "here"])

    assert main(["eval", str(agent_yaml), "--out", "here"]) == 2
    assert "here holds an evaluation already; add --resume, or name another --out" in capsys.readouterr().err


def test_the_adapter_of_a_run_that_has_none_is_an_error(agent_yaml, capsys):
    Path("runs/desk/20260101-000000-0000").mkdir(parents=True)
    Path("runs/desk/20260101-000000-0000/agent.yaml").write_text("")

    assert main(["eval", str(agent_yaml), "--run", "latest"]) == 2
    assert "has no adapter yet; finish it with --resume" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["eval"], ["rollout", "--out", "out.jsonl"]])
def test_where_everything_fails_the_cause_is_told_and_the_status_is_1(agent_yaml, capsys, command):
    unreachable = ["--set", "backend=openai", "--set", "backend.options.base_url=http://127.0.0.1:9/v1"]
    unreachable += ["--set", "backend.options.retries=0"]
    status = main([command[0], str(agent_yaml), *command[1:], *unreachable])
    said = capsys.readouterr()

    assert status == 1
    assert "what failed most: HttpError: 127.0.0.1:9: cannot connect" in said.out + said.err


def test_rollouts_are_written_a_line_an_episode(agent_yaml, capsys):
    command = ["rollout", str(agent_yaml), "--episodes", "6", "--samples", "3", "--out", "out.jsonl"]
    assert main(command) == 0

    played = trajectories(Path("out.jsonl"))
    assert len(played) == 6
    assert len({item.task.id for item in played}) == 2
    assert all(item.reward is not None for item in played)
    assert "6 episodes in" in capsys.readouterr().err


def test_rollouts_go_to_standard_output_by_default(agent_yaml, capfdbinary):
    assert main(["rollout", str(agent_yaml), "--episodes", "2"]) == 0

    lines = capfdbinary.readouterr().out.splitlines()
    assert [Trajectory.from_json(line).status for line in lines] == ["completed", "completed"]


def test_rollouts_do_not_overwrite_what_a_file_holds(agent_yaml, capsys):
    Path("out.jsonl").write_text("precious\n")
    assert main(["rollout", str(agent_yaml), "--out", "out.jsonl"]) == 2
    assert "out.jsonl holds something already; name another --out" in capsys.readouterr().err
    assert Path("out.jsonl").read_text() == "precious\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--split", "nosuch"], '--split nosuch: the environment "support_desk" gives no such tasks'),
        (["--episodes", "3000"], 'the environment "support_desk" has 256 train tasks. Ask for at most 256'),
        (["--out", "nowhere/out.jsonl"], "cannot write nowhere/out.jsonl: No such file or directory"),
    ],
)
def test_rollouts_that_cannot_be_had_are_an_error(agent_yaml, capsys, options, said):
    assert main(["rollout", str(agent_yaml), *options]) == 2
    assert said in capsys.readouterr().err


def test_as_many_rollouts_as_were_asked_for_are_played(agent_yaml, capfdbinary):
    assert main(["rollout", str(agent_yaml), "--episodes", "5", "--samples", "2"]) == 0
    played = [Trajectory.from_json(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert len(played) == 5
    assert sorted(Counter(item.task.id for item in played).values()) == [1, 2, 2]


def test_an_evaluation_that_cannot_be_written_is_an_error(agent_yaml, capsys):
    assert main(["eval", str(agent_yaml), "--out", "/proc/none"]) == 2
    assert "cannot write /proc/none: No such file or directory" in capsys.readouterr().err

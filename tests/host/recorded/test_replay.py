"""`--record` and `--replay`: the real commands, with a tool, a judge and a hosted model that answer at random."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from bench.chaos import timeless

from grpo_host.cli import main
from grpo_sdk import Trajectory

PARTS = """
import asyncio, os, random
from pathlib import Path
from grpo_sdk import *
from grpo_sdk.backend import ChatReply
from grpo_sdk.messages import assistant, tool_call


def asked(who):
    if Path("nobody_there").exists():
        raise RuntimeError(f"{who} was asked")


def dice(sides: int) -> str:
    '''Roll a dice.'''
    asked("the dice")
    if random.random() < 0.5:
        raise ValueError(f"the dice fell off the table {random.random()}")
    return str(random.randint(1, 10**9))


class Hosted(Backend):
    capabilities = frozenset({Capability.CHAT, Capability.TOOLS})

    def __init__(self, model, *, api_key: str = "") -> None:
        super().__init__(model)

    async def start(self):
        asked("the provider")

    async def chat(self, messages, sampling, tools=()):
        asked("the provider")
        await asyncio.sleep(random.random() / 100)
        if [message for message in messages if message["content"].endswith(" held_out-3")]:
            raise ProviderError(f"no capacity {random.random()}", status=503)
        if not any(message["role"] == "tool" for message in messages) and tools:
            calls = [tool_call("dice", '{"sides": 6}', f"call_{n}") for n in range(2)]
            calls += [tool_call("here", "{}", "call_2")]
            return ChatReply(assistant("", calls), completion_tokens=random.randint(1, 50))
        return ChatReply(assistant(f"{random.random()}"), completion_tokens=3)


class Judged(Reward):
    def __init__(self, *, judge: Backend) -> None:
        self.judge = judge

    async def score(self, trajectory):
        sampling = Sampling(max_tokens=8)
        question = user(f"How good is {trajectory.task.id.replace('held_out-5', 'held_out-3')}")
        replies = [await self.judge.chat([question], sampling) for _ in range(2)]
        return sum(float(reply.message["content"]) for reply in replies)


class Game(Environment):
    def tasks(self, split):
        return [Task(f"{split}-{n}", split=split) for n in range(12)]

    async def reset(self, task, *, seed):
        self.rolls = 0
        return Observation([user(f"Roll for {task.id}")])

    def tools(self):
        def here() -> str:
            '''Where am I?'''
            self.rolls += 1
            return os.environ.get("PLACE", "in the game")

        return [here]

    async def step(self, action):
        return StepResult(done=True, outcome={"rolls": self.rolls})
"""

AGENT = """\
name: dice
model: nobody
backend: {name: ./parts.py:Hosted, options: {api_key: sk-very-secret}}
agent: {system_prompt: Be brief., tools: [./parts.py:dice]}
environment: ./parts.py:Game
rewards:
  - name: ./parts.py:Judged
    options: {judge: {name: ./parts.py:Hosted, model: judge, options: {api_key: sk-very-secret}}}
evaluation: {episodes: 12}
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "agent.yaml").write_text(AGENT)
    return tmp_path


def close_the_world(desk: Path) -> None:
    (desk / "nobody_there").touch()


def played(path: Path) -> list[Trajectory]:
    """The trajectories, without what takes time and the lines of code that raised."""
    lines = [Trajectory.from_json(line) for line in path.read_bytes().splitlines()]
    alike = []
    for item in sorted(lines, key=lambda item: item.id):
        turns = [
            replace(turn, seconds=0, tools=[replace(run, seconds=0) for run in turn.tools])
            for turn in item.turns
        ]
        error = item.error and re.sub(r" \(\S+\.py:\d+\)", "", item.error)
        rewards = {
            name: replace(part, error=part.error and re.sub(r" \(\S+\.py:\d+\)", "", part.error))
            for name, part in item.rewards.items()
        }
        alike.append(replace(item, started=0, seconds=0, turns=turns, error=error, rewards=rewards))
    return alike


def numbers(directory: Path) -> dict[str, object]:
    report = json.loads((directory / "report.json").read_text())
    return {"rollouts": timeless(report["rollouts"]), "reward": report["reward"], "failed": report["failed"]}


def test_an_evaluation_is_replayed_without_asking_anybody_whatever_the_concurrency(desk, capsys):
    assert main(["eval", "agent.yaml", "--record", "--out", "first"]) == 0
    close_the_world(desk)

    replayed = [
        "eval",
        "agent.yaml",
        "--replay",
        "first",
        "--out",
        "second",
        "--set",
        "rollouts.concurrency=1",
    ]
    assert main(replayed) == 0, capsys.readouterr().err

    first, second = played(desk / "first/trajectories.jsonl"), played(desk / "second/trajectories.jsonl")
    assert first == second
    assert numbers(desk / "first") == numbers(desk / "second")
    assert any(run.error for item in first for turn in item.turns for run in turn.tools)
    assert {item.outcome.get("rolls") for item in first if item.status == "completed"} == {1}
    assert "sk-very-secret" not in (desk / "first/answers.jsonl").read_text()


def test_a_rollout_keeps_its_answers_beside_its_trajectories(desk, capsys):
    assert main(["rollout", "agent.yaml", "--episodes", "4", "--out", "a.jsonl", "--record"]) == 0
    assert main(["rollout", "agent.yaml", "--episodes", "4", "--out", "b.jsonl", "--replay", "a.jsonl"]) == 0
    assert played(desk / "a.jsonl") == played(desk / "b.jsonl")
    assert (desk / "a.answers.jsonl").is_file()
    assert not (desk / "b.answers.jsonl").exists()


def test_answers_that_were_compressed_are_found_beside_a_rollout_too(desk, capsys, monkeypatch):
    monkeypatch.setattr("grpo_host.recorded.answers.LARGE_BYTES", 1)
    asked = ["rollout", "agent.yaml", "--episodes", "4", "--out"]
    assert main([*asked, "[a].jsonl", "--record"]) == 0
    assert [path.name for path in desk.glob("*answers*")] == ["[a].answers.0001.jsonl.gz"]
    close_the_world(desk)
    assert main([*asked, "b.jsonl", "--replay", "[a].jsonl"]) == 0
    assert played(desk / "[a].jsonl") == played(desk / "b.jsonl")


def test_answers_that_the_disk_does_not_let_compress_stay_as_they_are(desk, capsys, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("grpo_host.recorded.answers.LARGE_BYTES", 1)
    monkeypatch.setattr("grpo_host.recorded.answers.shutil.copyfileobj", full)
    asked = ["rollout", "agent.yaml", "--episodes", "2", "--out"]
    assert main([*asked, "a.jsonl", "--record"]) == 0
    assert "a.answers.jsonl is not compressed: No space left on device" in caplog.text
    assert [path.name for path in desk.glob("*answers*")] == ["a.answers.jsonl"]


def test_a_rollout_that_was_not_recorded_cannot_be_replayed(desk, capsys):
    assert main(["rollout", "agent.yaml", "--episodes", "1", "--out", "a.jsonl"]) == 0
    assert main(["rollout", "agent.yaml", "--out", "b.jsonl", "--replay", "a.jsonl"]) == 2
    assert "a.jsonl has recorded no answers; make such a run with --record" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("agent.system_prompt=Be very brief.",),
            r"episode evaluation/held_out-\d+, turn 1: the model is asked otherwise: messages\[0\] \(system\) is "
            r'.*"Be very brief\.".* now, and was .*"Be brief\."',
        ),
        (
            ("sampling.max_tokens=99",),
            r"the model is asked otherwise: sampling\.max_tokens is 99 now, and was \d+",
        ),
        (
            ("seed=7", "rewards[0].name=length", "rewards[0].options={}"),
            r"sampling\.seed is \d+ now, and was \d+",
        ),
        (("evaluation.split=train",), r"episode evaluation/train-\d+, turn 1: nothing is recorded of it"),
    ],
)
def test_a_call_that_was_not_recorded_is_named_with_what_differs(desk, capsys, change, said):
    assert main(["eval", "agent.yaml", "--record", "--out", "first"]) == 0
    capsys.readouterr()

    overrides = [part for setting in change for part in ("--set", setting)]
    assert main(["eval", "agent.yaml", "--replay", "first", "--out", "second", *overrides]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_a_tool_of_an_environment_runs_again_and_may_not_answer_otherwise(desk, capsys, monkeypatch):
    assert main(["eval", "agent.yaml", "--record", "--out", "first"]) == 0
    monkeypatch.setenv("PLACE", "somewhere else")
    assert main(["eval", "agent.yaml", "--replay", "first", "--out", "second"]) == 2
    said = capsys.readouterr().err
    assert "turn 1: tool \"here\", which the environment brings, answers 'somewhere else' now, and" in said
    assert "answered 'in the game'" in said


def test_a_resumed_evaluation_goes_on_recording_and_its_last_answers_count(desk, capsys):
    assert main(["eval", "agent.yaml", "--record", "--out", "first", "--set", "seed=3"]) == 0
    failed = [item for item in played(desk / "first/trajectories.jsonl") if item.reward is None]
    assert failed
    with (desk / "first/answers.jsonl").open("a") as file:
        file.write('{"episode": "cut by a cra')

    again = ["--resume", "--set", "seed=3"]
    assert main(["eval", "agent.yaml", "--out", "first", *again]) == 0
    assert main(["eval", "agent.yaml", "--replay", "first", "--out", "second", "--set", "seed=3"]) == 0
    latest = [json.loads(line) for line in (desk / "first/trajectories.jsonl").read_text().splitlines()]
    last = {item["id"]: item["reward"] for item in latest}
    assert {item.id: item.reward for item in played(desk / "second/trajectories.jsonl")} == last


def test_a_tool_that_was_not_recorded_is_named_before_anything_is_played(desk, capsys):
    assert main(["rollout", "agent.yaml", "--episodes", "1", "--out", "a.jsonl", "--record"]) == 0
    another = ["--set", "agent.tools=[calculator]"]
    assert main(["rollout", "agent.yaml", "--out", "b.jsonl", "--replay", "a.jsonl", *another]) == 2
    said = capsys.readouterr().err
    assert "agent.tools[0] calculator" in said
    assert "it has: agent.tools[0] parts.py:dice" in said


def test_a_run_that_was_not_recorded_cannot_be_replayed(desk, capsys):
    assert main(["eval", "agent.yaml", "--out", "first"]) == 0
    assert main(["eval", "agent.yaml", "--replay", "first"]) == 2
    assert "first has recorded no answers; make such a run with --record" in capsys.readouterr().err


def test_a_replay_records_nothing(desk, capsys):
    assert main(["eval", "agent.yaml", "--record", "--out", "first"]) == 0
    assert main(["eval", "agent.yaml", "--replay", "first", "--record"]) == 2
    assert "a replay asks nobody" in capsys.readouterr().err


def test_a_rollout_to_standard_output_has_no_place_for_answers(desk, capsys):
    assert main(["rollout", "agent.yaml", "--record"]) == 2
    assert "--record needs --out" in capsys.readouterr().err


def test_an_app_s_own_tools_are_out_of_reach(desk, capsys):
    assert main(["eval", "agent.yaml", "--record", "--out", "first"]) == 0
    own = "agent: {system_prompt: Be brief., tools: [./parts.py:dice]}"
    (desk / "agent.yaml").write_text(AGENT.replace(own, "agent: {runnable: 'app:build'}"))
    assert main(["eval", "agent.yaml", "--replay", "first"]) == 2
    assert "agent.runnable: an app runs its tools itself" in capsys.readouterr().err


def test_a_full_disk_ends_a_run_that_is_recorded(desk, capsys):
    Path("first").mkdir()
    Path("first/answers.jsonl").symlink_to("/dev/full")
    assert main(["eval", "agent.yaml", "--record", "--out", "first"]) == 2
    said = capsys.readouterr().err
    assert "answers.jsonl: No space left on device; the recording would have a gap" in said

"""Standard output holds what a command gives, whatever plugins print."""

from __future__ import annotations

import json

import pytest

from grpo_host.cli import main

LOUD = """
from grpo_sdk import Environment, Observation, Reward, StepResult, Task, user

print("imported")


class Desk(Environment):
    def __init__(self):
        print("made")

    def tasks(self, split):
        print("tasks")
        return [Task(f"{split}-{n}") for n in range(4)]

    async def reset(self, task, *, seed):
        print("reset")
        return Observation([user("Hi")])

    async def step(self, action):
        print("step")
        return StepResult(done=True)


class loud(Reward):
    def score(self, trajectory):
        print("scored")
        return 1.0

    def close(self):
        print("closed")
"""


@pytest.fixture
def agent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(LOUD)
    (tmp_path / "agent.yaml").write_text(
        "{name: loud, model: m, backend: scripted, environment: ./my.py:Desk, rewards: [./my.py:loud],"
        " evaluation: {episodes: 2}}"
    )
    return "agent.yaml"


@pytest.mark.parametrize(
    "arguments",
    [
        ("rollout", "agent.yaml", "--episodes", "2"),
        ("eval", "agent.yaml", "--json"),
        ("score", "played.jsonl", "--rewards", "agent.yaml", "--json"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_plugins_print_is_on_standard_error(agent, tmp_path, capfd, arguments):
    assert main(["rollout", agent, "--episodes", "2", "--out", str(tmp_path / "played.jsonl")]) == 0
    capfd.readouterr()
    assert main(list(arguments)) == 0
    said = capfd.readouterr()
    assert "scored" in said.err
    lines = said.out.splitlines() if arguments[0] == "rollout" else [said.out]
    assert all(json.loads(line) for line in lines)

"""How often a command reads the options of agent.yaml and makes what they are for: once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from grpo_host.cli import main
from grpo_sdk import Task
from grpo_sdk.testing import make_trajectory

COUNTED = """
import os
from typing import Annotated
from pydantic import AfterValidator
from grpo_sdk import *
from grpo_sdk.backend import TRAINABLE
from grpo_sdk.curriculum import Curriculum
from grpo_sdk.testing import ScriptedBackend


def note(what):
    with open("counted.txt", "a") as file:
        print(what, file=file)


def counted(of):
    return Annotated[int, AfterValidator(lambda value: note(f"read {of}") or value)]


class Score(Reward):
    def __init__(self, *, limit: counted("reward") = 1, judge: Backend | None = None) -> None:
        note("made reward")

    def score(self, trajectory):
        return 1.0

    def close(self):
        note("closed reward")


def lookup(*, limit: counted("tool") = 1) -> ToolBundle:
    note("made tool")

    def look_up(order: str) -> str:
        '''Look an order up.'''
        return order

    return ToolBundle(lambda: note("opened tool") or look_up)


def clerk(*, limit: counted("strategy") = 1) -> Strategy:
    note("made strategy")
    return Strategy("clerk")


class Desk(Environment):
    def __init__(self, *, limit: counted("environment") = 1) -> None:
        pass

    def tasks(self, split):
        return [Task(f"{split}-{n}", split=split) for n in range(8)]

    async def reset(self, task, *, seed):
        return Observation([user("Hi")])

    async def step(self, action):
        return StepResult(done=True)


class Random(Curriculum):
    def __init__(self, *, limit: counted("curriculum") = 1) -> None:
        note("made curriculum")

    def choose(self, pool, count):
        return pool[:count]

    def observe(self, groups):
        pass


class Talker(ScriptedBackend):
    def __init__(self, model, *, limit: counted("backend") = 1) -> None:
        super().__init__(model)


class Engine(Talker):
    capabilities = TRAINABLE


class Judge(ScriptedBackend):
    def __init__(self, model, *, limit: counted("judge") = 1) -> None:
        super().__init__(model)
"""

AGENT = """\
name: desk
model: m
backend: {name: ./counted.py:Talker, options: {limit: 2}}
agent:
  strategy: {name: ./counted.py:clerk, options: {limit: 2}}
  tools: [{name: ./counted.py:lookup, options: {limit: 2}}]
environment: {name: ./counted.py:Desk, options: {limit: 2}}
rewards:
  - name: ./counted.py:Score
    options: {limit: 2, judge: {name: ./counted.py:Judge, model: m, options: {limit: 2}}}
training:
  tasks_per_step: 4
  curriculum: {name: ./counted.py:Random, options: {limit: 2}}
evaluation: {episodes: 2}
"""

TRAINED = ["--set", "backend.name=./counted.py:Engine"]
PLAYED = Path("trajectories.jsonl")
OPTIONS = {f"read {kind}" for kind in ("reward", "judge", "tool", "strategy", "environment", "backend")}
PARTS = {"made reward", "made tool", "made strategy", "closed reward"}
CURRICULUM = {"read curriculum", "made curriculum"}


@pytest.fixture
def counts(tmp_path, monkeypatch):
    """Runs a command; how often what happened."""
    monkeypatch.chdir(tmp_path)
    Path("counted.py").write_text(COUNTED)
    Path("agent.yaml").write_text(AGENT)
    PLAYED.write_bytes(make_trajectory("Hi.", task=Task("t")).to_json() + b"\n")

    def counts(*command: str) -> Counter[str]:
        assert main(list(command)) == 0
        return Counter(Path("counted.txt").read_text().splitlines())

    return counts


@pytest.fixture
def short(monkeypatch):
    """Neither trains nor listens: all around that is the real thing."""
    from grpo_host.serving import server
    from grpo_host.training.training_run import TrainingRun

    monkeypatch.setattr(TrainingRun, "execute", lambda run: None)
    monkeypatch.setattr(server, "serve", lambda settings, app: None)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("command", "once"),
    [
        (["run", "agent.yaml", *TRAINED], OPTIONS | PARTS | CURRICULUM),
        (["eval", "agent.yaml"], OPTIONS | PARTS | {"read curriculum"}),
        (["rollout", "agent.yaml", "--out", "out.jsonl"], OPTIONS | PARTS),
        (["check", "agent.yaml", *TRAINED], OPTIONS | PARTS | CURRICULUM),
        (["check", "agent.yaml", "--resolved", *TRAINED], OPTIONS | PARTS | CURRICULUM),
        (["score", str(PLAYED), "--rewards", "agent.yaml"], {"read reward", "read judge"}),
        (["serve", "agent.yaml"], OPTIONS | PARTS),
    ],
    ids=["run", "eval", "rollout", "check", "check --resolved", "score", "serve"],
)
def test_a_command_reads_each_plugins_options_once_and_makes_it_once(command, once, counts, short):
    found = counts(*command)
    assert {what: found[what] for what in once} == dict.fromkeys(once, 1)

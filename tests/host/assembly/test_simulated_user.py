"""The user of an episode played by a second model that agent.yaml names."""

from __future__ import annotations

from typing import ClassVar

import pytest

from grpo_host.assembly.runtime import Assembly
from grpo_host.checks.check import check
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.config.resolved import dump_resolved
from grpo_host.plugins import Registry, load_plugins
from grpo_host.rollouts.evaluation import evaluate
from grpo_host.runs.assembled import assemble
from grpo_sdk import Backend, Capability, ChatReply, FinishReason, assistant, hookimpl

AGENT = """\
name: desk
model: {name: scripted}
backend: scripted
environment:
  name: prompts
  options: {prompts: [Hi], held_out: [Hello], turns: 2, user: {name: talker, model: someone}}
rewards: [length]
evaluation: {episodes: 1}
output: runs
"""


class Talker(Backend):
    """Says who it is; one that is closed says nothing."""

    capabilities = frozenset({Capability.CHAT})
    events: ClassVar[list[str]] = []

    async def start(self) -> None:
        self.events.append("start")

    async def chat(self, messages, sampling, tools=()):
        said = f"I am {self.model.name}, and I heard {messages[-1]['content']}"
        return ChatReply(assistant(said), FinishReason.STOP)

    async def close(self) -> None:
        self.events.append("close")


class Plugin:
    @hookimpl
    def grpo_backends(self):
        return {"talker": Talker}


@pytest.fixture
def registry(monkeypatch) -> Registry:
    monkeypatch.setattr(Talker, "events", [])
    made = load_plugins()
    made.register(Plugin(), "talkers")
    return made


@pytest.fixture
def loaded(tmp_path, monkeypatch, registry):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.yaml").write_text(AGENT)
    return load_config("agent.yaml", registry=registry)


async def played(assembly: Assembly):
    agent = await assembly.start()
    try:
        tasks = assembly.tasks("held_out")
        _, trajectories = await evaluate(assembly.engine(agent), tasks, seed=0, split="held_out")
        return trajectories[0]
    finally:
        await assembly.close()


async def test_it_answers_the_agent_and_is_started_once_and_closed_with_the_run(loaded, registry):
    trajectory = await played(assemble(resolve(loaded, registry)))

    said = [message["content"] for message in trajectory.environment_messages]
    answer = trajectory.policy_messages[0]["content"]
    assert said == ["Hello", *[f"I am someone, and I heard {answer}"] * 2]
    assert Talker.events == ["start", "close"]


def test_a_check_does_not_start_it(loaded, registry):
    assert [str(p) for p in check(resolve(loaded, registry), purpose="eval").problems] == []
    assert Talker.events == []


def test_a_backend_that_is_not_there_is_a_problem_where_it_stands(tmp_path, loaded, registry):
    loaded = load_config("agent.yaml", ["environment.options.user.name=talkr"], registry)
    [problem] = check(resolve(loaded, registry), purpose="eval").problems

    assert 'environment.options.user.name: no backend "talkr". Did you mean "talker"?' in str(problem)


def test_it_is_written_out_with_its_defaults(loaded, registry):
    assert "context: 4096" in dump_resolved(resolve(loaded, registry))

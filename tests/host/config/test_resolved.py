"""The resolved agent.yaml: complete, readable, and without secrets."""

from __future__ import annotations

import pytest

from grpo_host.checks.check import check
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.config.resolved import dump_resolved
from grpo_host.plugins import load_plugins


def test_every_default_is_written_out(agent_yaml, registry):
    text = dump_resolved(resolve(load_config(agent_yaml), registry))
    assert "context: 1024\n" in text
    assert "adapter: null\n" in text
    assert "learning_rate: 0.0003\n" in text
    assert "    word: please\n" in text
    assert "    held_out: 40\n" in text


def test_what_is_written_is_read_back_as_the_same(agent_yaml, registry, tmp_path):
    overrides = [
        "training.warm_start.learning_rate=1e-7",
        "agent.tools=[{name: dice, options: {sides: 20}}]",
        "agent.strategy=clerk",
        "agent.system_prompt='# a\n\n  $${b}: \"c\"'",
    ]
    loaded = load_config(agent_yaml, overrides)
    text = dump_resolved(resolve(loaded, registry))
    (tmp_path / "resolved.yaml").write_text(text)
    again = load_config(tmp_path / "resolved.yaml")
    assert dump_resolved(resolve(again, registry)) == text
    assert again.config.agent.system_prompt == '# a\n${b}: "c"'
    assert again.config.training == loaded.config.training


@pytest.mark.parametrize("backend", ["engine", "remote"])
def test_what_is_written_passes_the_check(agent_yaml, registry, tmp_path, backend):
    overrides = [f"backend.name={backend}"]
    overrides += ["rewards=[{name: judged, options: {judge: {name: remote, model: m}}}]"]
    text = dump_resolved(resolve(load_config(agent_yaml, overrides), registry))
    (tmp_path / "resolved.yaml").write_text(text)
    found = check(resolve(load_config(tmp_path / "resolved.yaml"), registry), purpose="eval").problems
    assert [str(problem) for problem in found if ": model" in str(problem) or ".model" in str(problem)] == []


@pytest.mark.parametrize("place", ["backend.options.url", "rewards[0].options.word", "output"])
def test_secrets_stay_references(agent_yaml, registry, tmp_path, monkeypatch, place):
    monkeypatch.setenv("SECRET", "http://hunter2")
    loaded = load_config(agent_yaml, ["backend.name=remote", f"{place}=a ${{SECRET}}"])
    assert "hunter2" in str(loaded.config)
    text = dump_resolved(resolve(loaded, registry))
    assert "hunter2" not in text
    (tmp_path / "resolved.yaml").write_text(text)
    assert (
        load_config(tmp_path / "resolved.yaml").config
        == load_config(tmp_path / "resolved.yaml", [f"{place}=a ${{SECRET}}"]).config
    )
    assert "hunter2" in str(load_config(tmp_path / "resolved.yaml").config)


def test_a_reference_that_stands_for_a_section_becomes_its_name(agent_yaml, registry, monkeypatch):
    monkeypatch.setenv("BACKEND", "remote")
    text = dump_resolved(resolve(load_config(agent_yaml, ["backend=${BACKEND}"]), registry))
    assert "backend:\n  name: ${BACKEND}\n  options:\n    url: http://here\n" in text


def test_comments_stand_on_top(agent_yaml, registry, tmp_path):
    text = dump_resolved(resolve(load_config(agent_yaml), registry), comments=["torch 2.13", "seed 0"])
    assert text.startswith("# torch 2.13\n# seed 0\nname: desk\n")


JUDGED = "rewards=[{name: judged, options: {judge: {name: remote, model: some/model, options: %s}}}]"


def test_a_judge_is_written_out_with_its_model_and_options(agent_yaml, registry, tmp_path):
    text = dump_resolved(resolve(load_config(agent_yaml, [JUDGED % "{}"]), registry))
    (tmp_path / "resolved.yaml").write_text(text)
    judge = load_config(tmp_path / "resolved.yaml").config.rewards[0].options["judge"]
    assert judge == {
        "name": "remote",
        "options": {"url": "http://here"},
        "model": {"name": "some/model", "context": 4096, "adapter": None},
    }


def test_a_judges_secrets_stay_references(agent_yaml, registry, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    text = dump_resolved(resolve(load_config(agent_yaml, [JUDGED % '{url: "http://${SECRET}"}']), registry))
    assert "hunter2" not in text
    assert "url: http://${SECRET}\n" in text


PLUGIN = """
    from grpo_sdk import Environment, Observation, StepResult, Task, hookimpl, reward, user

    class Hall(Environment):
        def tasks(self, split):
            return [Task(split + str(n), split=split) for n in range(8)]

        async def reset(self, task, *, seed):
            return Observation([user("Hello")])

        async def step(self, action):
            return StepResult(done=True)

    @reward
    def fine(trajectory, *, most: float = float("inf")) -> float:
        return 1.0

    @hookimpl
    def grpo_environments():
        return {"hall": Hall}

    @hookimpl
    def grpo_rewards():
        return {"fine": fine}
"""


def test_names_of_installed_plugins_are_qualified_and_rewards_keep_theirs(index, tmp_path):
    index.install("acme", code=PLUGIN)
    index.describe("grpo-agent-framework", backends="grpo_backends.plugin")
    (tmp_path / "agent.yaml").write_text(
        "name: hall\nmodel: none\nbackend: scripted\nenvironment: hall\n"
        "rewards: [fine, {name: fine, as: finer}]\n"
    )
    text = dump_resolved(resolve(load_config(tmp_path / "agent.yaml"), load_plugins()))
    (tmp_path / "resolved.yaml").write_text(text)

    index.install("best", code=PLUGIN)
    later = load_plugins()
    again = load_config(tmp_path / "resolved.yaml", registry=later)
    assert dump_resolved(resolve(again, later)) == text
    assert check(resolve(again, later), purpose="rollout").problems == []
    config = again.config
    assert (config.backend.name, config.environment.name) == ("scripted", "acme:hall")
    assert [(use.name, use.label) for use in config.rewards] == [
        ("acme:fine", "fine"),
        ("acme:fine", "finer"),
    ]
    assert config.environment.label == "hall"
